"""Spaces and --set as people write them: kind and case -> the line that says what to do, or the value."""

from collections.abc import Callable
from typing import Any

import pytest

from study.errors import StudyError
from study.space.load import load_study
from study.space.settings import Study
from tests.study.space.test_load import BASE

LR = "{float: [0.01, 0.3], log: true, when: {training.optimizer: sgd}}"
RANGE = "must be a mapping with float, int or choice, but is {}; write a range as .float: .low, hig"


@pytest.fixture
def load(tmp_path):
    def load(text: Any = BASE, *overrides: str) -> Study:
        file = tmp_path / "space.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_study([file], list(overrides))

    return load


def put(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new, 1)


REFUSED: dict[str, tuple[Any, str]] = {
    "encoding | UTF-16, as PowerShell writes": (BASE.encode("utf-16"), "save it as UTF-8"),
    "encoding | Latin-1": (b"# \xfcber\n" + BASE.encode(), "must be YAML in UTF-8, .*; save it as"),
    "YAML | a tab": (put("  backbone", "\tbackbone"), r"found character '\\t' that cannot start"),
    "YAML | two documents": (f"{BASE}---\n{BASE}", "expected a single document"),
    "section | one value": (put("  training: {epochs: 2}", "  training: 2"),
        r"fixed.training: must be a mapping, but is 2"),
    "section | its name alone": (put("{name: mlp, width: 16}", "mlp"),
        "fixed.backbone: must be a mapping, but is 'mlp'"),
    "section | at the top": (f"{BASE}training: {{epochs: 3}}\n",
        "training: unknown key; did you mean fixed.training or search.training"),
    "section | budget: 60": (f"{BASE}budget: 60\n", "budget: must be a mapping, but got 60"),
    "range | under fixed": (put("{epochs: 2}", "{epochs: {int: [1, 9]}}"),
        "fixed.training.epochs: must be one value; put a range under search"),
    "range | one value": (put("{float: [0.1, 1.0], log: true, when: {params.init: normal}}", "0.5"),
        f"search.params.init_std: {RANGE.format('0.5')}"),
    "range | a list alone": (put("{choice: [normal, sign]}", "[normal, sign]"),
        f"search.params.init: {RANGE.format('.normal.')}"),
    "range | loguniform": (put(LR, "{loguniform: [0.01, 0.3]}"), "loguniform: unknown key; known: float, int, choice"),
    "range | Tune's call": (put("{choice: [normal, sign]}", "'tune.choice([1, 2])'"),
        RANGE.format("'tune.choice.*'")),
    "range | three numbers": (put("[0.01, 0.3]", "[0.01, 0.1, 0.3]"),
        r"float must be \[low, high\], but is \(0.01, 0.1, 0.3\)"),
    "range | decimal commas": (put("[0.01, 0.3]", "[0,01, 0,3]"), r"float must be \[low, high\]"),
    "range | no comma": (put("[0.01, 0.3]", "[0.01 0.3]"), r"float must be \[low, high\]"),
    "range | a dash": (put("[0.01, 0.3]", "0.01-0.3"), "float must be .low, high., but is '0.01-0.3'"),
    "range | without end": (put("[0.01, 0.3]", "[0.01, .inf]"), "finite number, but got inf"),
    "range | not a number": (put("[0.01, 0.3]", "[.nan, 0.3]"), "finite number, but got nan"),
    "choice | a word": (put("[normal, sign]", "sign"), "choice must be a list of values, but is 'sign"),
    "choice | a value twice": (put("[normal, sign]", "[normal, sign, sign]"),
        "choice must have every value once, but is"),
    "choice | 1 and 1.0": (put("{choice: [sgd, adamw]}", "{choice: [1, 1.0]}"), "every value once"),
    "choice | lists": (put("[normal, sign]", "[[normal], sign]"),
        r"init.choice.0: input should be a valid string or .*, but got \['normal'\]"),
    "when | a word": (put("when: {params.init: normal}", "when: params.init"),
        "init_std.when: must be a mapping, but got 'params.init'"),
    "when | nested": (put("when: {params.init: normal}", "when: {params: {init: normal}}"),
        "init_std.when.params: input should be a valid string or .*, but got {'init': 'normal'}"),
    "number | 5.0 epochs": (put("epochs: 2", "epochs: 5.0"), "epochs: .*valid integer, but got 5.0"),
    "number | '5' epochs": (put("epochs: 2", "epochs: '5'"), "epochs: .*valid integer, but got '5'"),
    "number | 1_000": (put("epochs: 2", "epochs: 1_000"), "valid integer, but got '1_000'"),
    "number | percent": (put("epochs: 2", "weight_decay: 10%"), "valid number, but got '10%'"),
    "number | a formula": (put("epochs: 2", "epochs: 2*3"), r"valid integer, but got '2\*3'"),
    "number | a variable": (put("epochs: 2", "epochs: $EPOCHS"), r"valid integer, but got '\$EPOCHS'"),
    "seeds | in quotes": (f"{BASE}protocol: {{seeds: '20'}}\n",
        "protocol.seeds: input should be a valid integer or 'auto', but got '20'"),
    "seeds | Auto": (f"{BASE}protocol: {{seeds: Auto}}\n", "valid integer or 'auto', but got 'Auto'"),
    "seeds | a list": (f"{BASE}protocol: {{seeds: [1, 2]}}\n", r"valid integer or 'auto', but got \[1"),
    "GPUs | one and a half": (f"{BASE}resources: {{gpus_per_trial: 1.5}}\n",
        "must be whole above 1, as Ray asks, but is 1.5; round it"),
    "GPUs | all": (f"{BASE}resources: {{gpus_per_trial: all}}\n",
        "gpus_per_trial: input should be a valid number or 'auto', but got 'all'"),
    "endpoints | a word": (f"{BASE}protocol: {{endpoints: cll}}\n", "endpoints: must be a list, but"),
    "hours | a time": (f"{BASE}resources: {{trial_hours: 00:30}}\n", "valid number, but got '00:30'"),
    "data | its name alone": (put("{name: digits}", "digits"), "dataset: must be a mapping with a name"),
    "data | no path": (put("{name: digits}", "{name: parquet}"), "dataset.path: must be given$"),
    "data | a share": (put("{name: digits}", "{name: digits, val_size: 0.2}"),
        "dataset.val_size: .*valid integer, but got 0.2"),
    "enqueue | a name": (put("- {name: known,", "- known\n  - {name: other,"),
        "enqueue.0: must be a mapping, but got 'known'"),
    "storage | a file": (f"{BASE}storage: optuna.db\n", "storage: must be a database as postgresql"),
    "name | a number": (put("name: mine", "name: 2024"), "name: .*valid string, but got 2024"),
    "name | a blank": (put("name: mine", "name: my study"), "name: must be letters, digits, .*, but is 'my study'; give"),
    "seed | 19 digits": (f"{BASE}seed: 1234567890123456789\n",
        "a whole number must have 18 digits at most, but one is 1234567890123456789; shorten it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_one_line(case, load):
    text, message = REFUSED[case]
    with pytest.raises(StudyError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)
    assert "space.yaml" in str(caught.value)


def epochs(study: Study) -> Any:
    return study.candidates[0].fixed.get("training.epochs")


READ: dict[str, tuple[Any, Callable[[Study], Any], Any]] = {
    "encoding | a byte order mark": (b"\xef\xbb\xbf" + BASE.encode(), epochs, 2),
    "encoding | Windows' line ends": (BASE.replace("\n", "\r\n"), epochs, 2),
    "number | 010 is not octal": (put("epochs: 2", "epochs: 010"), epochs, 10),
    "number | 089 is one": (put("epochs: 2", "epochs: 089"), epochs, 89),
    "word | True": (put("log: true", "log: True"), lambda s: s.space("single").search["training.lr"][0].log, True),
    "word | a date is a text": (f"{BASE}note: 2026-01-31\n", lambda s: s.note, "2026-01-31"),
    "section | budget of comments": (f"{BASE}budget:\n  # trials: 9\n", lambda s: s.budget.trials, 60),
    "section | protocol of comments": (f"{BASE}protocol:\n", lambda s: s.protocol.delta, 0.25),
    "section | fixed.training of comments": (put("training: {epochs: 2}", "training:"), epochs, None),
    "section | no seed": (f"{BASE}seed:\n", lambda s: s.seed, 0),
    "section | no name": (put("name: mine", "name:"), lambda s: s.name, "space"),
    "key | with dots": (put("training: {epochs: 2}", "training.epochs: 3"), epochs, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_is_meant_is_read(case, load):
    text, found, value = READ[case]
    assert found(load(text)) == value


SET_REFUSED = {
    "budget.trials: 5": "must be key=value, as budget.trials=100",
    "=5": "must be key=value",
    "budget.=5": "must be key=value",
    "budget..trials=5": "must be key=value",
    "training.epochs=3": "unknown key; did you mean fixed.training.epochs or search.training.epochs",
    "BUDGET.trials=5": "unknown key; known: name",
    "budget.trials==5": "budget.trials: .*valid integer, but got '=5'",
    "budget.trials=5,": "budget.trials: .*valid integer, but got '5,'",
    "budget.trials=1e2": "budget.trials: .*valid integer, but got 100.0",
    "budget.trials=${TRIALS}": "budget.trials: .*valid integer, but got",
    "budget.trials=[1": "the value must be YAML, but is '.1'; put quotes around a text",
    "seed=1234567890123456789": "a whole number must have 18 digits at most, but one is 123.*89; short",
    "budget={trials: 5, trials: 6}": "--set .*: key 'trials' stands twice",
    "note=@home": "the value must be YAML, but is '@home'; put quotes around a text",
    "note=&a [*a]": "the value must be YAML, but is",
    "note=a: b": "note: .*valid string, but got {'a': 'b'}",
    "fixed.training=3": "fixed.training: must be a mapping, but is 3",
    "fixed.training.lr=0.1": r"training.lr: is both fixed and searched; keep one \(--set search.training.lr= takes the range",
    "search.training.lr=[0.01, 0.3]": "must be a mapping with float, int or choice, but is 0.01",
    "enqueue.0.name=x": "is no mapping; name a key inside one",
    "name.x=3": "name in .* is no mapping",
    "method=sve": "init is a parameter of batch_ensemble, not of sve; remove it",
    "dataset.path=x": "dataset.path: unknown key; known: name",
}


@pytest.mark.parametrize("given", SET_REFUSED, ids="--set {}".format)
def test_an_override_that_cannot_be_meant_is_one_line(given, load):
    with pytest.raises(StudyError, match=SET_REFUSED[given]) as caught:
        load(BASE, given)
    assert "\n" not in str(caught.value)


def test_a_file_whose_name_cannot_be_the_studys(tmp_path):
    file = tmp_path / "my study.yaml"
    file.write_text(put("name: mine", "name:"))
    with pytest.raises(
        StudyError, match=r"but is 'my study'; .*where it is not given, it is the f"
    ):
        load_study([file])


def test_an_override_as_deep_as_it_likes_is_one_line(load):
    with pytest.raises(StudyError, match="the value must be YAML") as caught:
        load(BASE, "note=" + "[" * 3000)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("given", "found", "value"),
    [
        ("budget.trials = 5", lambda s: s.budget.trials, 5),
        ("budget.trials=090", lambda s: s.budget.trials, 90),
        ("budget.trials=5 # a few", lambda s: s.budget.trials, 5),
        ("budget={trials: 5}", lambda s: s.budget.trials, 5),
        ("note=a=b", lambda s: s.note, "a=b"),
        ("note=50 %", lambda s: s.note, "50 %"),
        ("note='#1'", lambda s: s.note, "#1"),
        ("name=", lambda s: s.name, "space"),
        ("fixed.training.epochs=7", epochs, 7),
        ("resources.gpus_per_trial=auto", lambda s: s.resources.gpus_per_trial, "auto"),
    ],
    ids=lambda part: f"--set {part}" if isinstance(part, str) else "",
)
def test_an_override_as_it_is_meant(given, found, value, load):
    assert found(load(BASE, given)) == value


@pytest.mark.parametrize("nothing", ["", "null", " ~"])
def test_an_override_takes_a_range_away_for_a_value(nothing, load):
    given = f"search.training.lr={nothing}", "fixed.training.lr=0.1", "enqueue="
    space = load(BASE, *given).candidates[0]
    assert space.fixed["training.lr"] == 0.1
    assert "training.lr" not in space.search

"""YAML in, a checked study out; every mistake one line with file, key, rule and value."""

from pathlib import Path

import pytest
import yaml

from study.errors import StudyError
from study.space.configuration import configuration
from study.space.domain import Domain
from study.space.load import load_study

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))

BASE = """
name: mine
dataset: {name: digits}
method: batch_ensemble
fixed:
  backbone: {name: mlp, width: 16}
  training: {epochs: 2}
search:
  params:
    init: {choice: [normal, sign]}
    init_std: {float: [0.1, 1.0], log: true, when: {params.init: normal}}
    negative_share: {float: [0.1, 0.5], when: {params.init: sign}}
  training:
    optimizer: {choice: [sgd, adamw]}
    lr:
      - {float: [0.01, 0.3], log: true, when: {training.optimizer: sgd}}
      - {float: [1e-4, 1e-2], log: true, when: {training.optimizer: adamw}}
enqueue:
  - {name: known, params.init: normal, params.init_std: 0.5, training.optimizer: sgd, training.lr: 0.1}
"""


@pytest.fixture
def load(tmp_path):
    def load(text=BASE, overrides=(), name="space.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return load_study([file], list(overrides))

    return load


@pytest.mark.parametrize("file", SPACES, ids=lambda f: f.stem)
def test_every_space_of_the_project_loads(file):
    study = load_study([file])
    assert {"single"} <= {space.method for space in study.spaces}
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith((".", "?"))
    assert lines[1].startswith("# Costs ")


def test_defaults_are_filled_in_and_single_shares_the_space(load):
    study = load()
    assert study.dataset["train_size"] == 300
    single = study.space("single")
    assert single.fixed == {"backbone.name": "mlp", "backbone.width": 16, "training.epochs": 2}
    assert set(single.search) == {"training.optimizer", "training.lr"}


def test_included_files_give_their_methods_spaces_alone(tmp_path):
    (tmp_path / "a.yaml").write_text(BASE + "budget: {trials: 77}\n")
    other = BASE.replace("method: batch_ensemble", "method: sve")
    (tmp_path / "b.yaml").write_text(other[: other.index("search:")] + "search: {}\n")
    (tmp_path / "all.yaml").write_text("budget: {trials: 9}\ninclude: [a.yaml, b.yaml]\n")
    study = load_study([tmp_path / "all.yaml"])
    assert [space.method for space in study.candidates] == ["batch_ensemble", "sve"]
    assert (study.name, study.budget.trials) == ("all", 9)
    assert (
        study.space("single").search.keys()
        == load_study([tmp_path / "a.yaml"]).space("single").search.keys()
    )


@pytest.mark.parametrize("entry", ["[3]", "nothing.yaml", "[nothing.yaml]"])
def test_what_cannot_be_included_is_refused(tmp_path, entry):
    (tmp_path / "all.yaml").write_text(f"include: {entry}\n")
    with pytest.raises(StudyError, match=r"include|cannot be read"):
        load_study([tmp_path / "all.yaml"])


def test_a_compared_method_keeps_its_own_keys(load):
    compare = "compare:\n  - {method: mc_dropout, fixed: {backbone: {dropout: 0.1, width: 8}}}\n"
    space = load(BASE + compare).space("mc_dropout")
    assert space.fixed["backbone.width"] == 8
    assert space.fixed["backbone.dropout"] == 0.1
    assert "training.lr" in space.search


def test_numbers_and_words_are_those_of_yaml_1_2(load):
    text = BASE.replace("training: {epochs: 2}", "training: {epochs: 2, weight_decay: 1e-4}")
    assert load(text).candidates[0].fixed["training.weight_decay"] == 1e-4
    with pytest.raises(StudyError, match=r"bias: .*'shared', 'same' or 'random', but got 'no'"):
        configuration(
            load(BASE.replace("search:", "  params: {bias: no}\nsearch:")).candidates[0],
            {"params.init": "sign", "params.negative_share": 0.5},
        )


def test_overrides_are_checked_like_the_yaml(load):
    assert load(overrides=["budget.trials=7", "name=other"]).budget.trials == 7
    assert load(overrides=["fixed.training.epochs=9"]).spaces[0].fixed["training.epochs"] == 9
    for override, message in {
        "budget.trails=7": "budget.trails: unknown key; did you mean 'trials'",
        "budget.trials=many": "budget.trials: .*valid integer, but got 'many'",
        "budget.trials": "must be key=value",
        "budegt.trials=7": "unknown key",
        "budget.trials.x=7": "budget.trials",
        "name=a/b": "name: must be letters, digits",
    }.items():
        with pytest.raises(StudyError, match=message):
            load(overrides=[override])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: batch_ensemble", "method: batch_ensembel", "did you mean 'batch_ensemble'"),
        ("method: batch_ensemble", "metod: batch_ensemble", "metod: unknown key; did you mean 'method'"),
        ("method: batch_ensemble", "method: 3", "method: must name a method, but is 3"),
        ("name: digits", "name: digit", "dataset.name: dataset 'digit' does not exist; did you mean"),
        ("{name: digits}", "{name: digits, train_size: big}", "dataset.train_size: .*integer, but got 'big'"),
        ("{name: digits}", "{name: digits, train: 3}", "dataset.train: unknown key; did you mean 'train_size'"),
        ("name: mlp", "name: mpl", "backbone.name: backbone 'mpl' does not exist; did you mean 'mlp'"),
        ("width: 16", "widht: 16", "backbone.widht: unknown parameter; did you mean 'width'"),
        ("width: 16", "dropout: 0.1, rate: 1", "backbone.rate: unknown parameter"),
        ("  training: {epochs: 2}", "  trainig: {epochs: 2}", "unknown section; did you mean 'training'"),
        ("[0.1, 1.0]", "[1.0, 0.1]", r"must have low < high, but got \[1.0, 0.1\]"),
        ("[0.1, 1.0]", "[0, 1.0]", "log needs a range above 0"),
        ("[normal, sign]", "[]", "init.*choice"),
        ("[normal, sign]", "[true, sign]", "choice mixes true or false"),
        ("{choice: [normal, sign]}", "{chioce: [normal]}", "params.init.chioce: unknown parameter|params.init"),
        ("{choice: [normal, sign]}", "{choice: [normal], float: [0, 1]}", "exactly one of float, int, choice"),
        ("{params.init: normal}}", "{params.rank: 1}}", "when: params.rank must stand above it"),
        ("params.init_std: 0.5,", "params.init_std: 5.0,", r"enqueue\[0\]: params.init_std: must lie in the search"),
        ("params.init_std: 0.5,", "params.layers: all,", "params.layers: must be searched"),
        ("name: known, ", "", r"enqueue\[0\]: name: must be a text"),
        ("name: known, ", "name: known, control: positive, ", "control: must be negative"),
        ("name: mine", "name: ../mine", "name: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_key(load, old, new, message):
    assert old in BASE
    with pytest.raises(StudyError, match=message) as caught:
        load(BASE.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert "space.yaml" in str(caught.value)


def test_a_parameter_of_another_method_is_said_to_be_so(load):
    text = BASE.replace("method: batch_ensemble", "method: mc_dropout")
    with pytest.raises(
        StudyError, match="init is a parameter of batch_ensemble, not of mc_dropout"
    ):
        load(text)


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [", "a: b: c", "!!python/object/apply:os.system [ls]"]
)
def test_what_is_no_mapping_is_refused(load, text):
    with pytest.raises(StudyError, match=r"space\.yaml: must be"):
        load(text)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(StudyError, match="cannot be read"):
        load_study([tmp_path / "none.yaml"])


def test_values_that_do_not_go_together_are_named(load):
    loose = BASE.replace(", when: {params.init: sign}", "").partition("enqueue:")[0]
    space = load(loose).candidates[0]
    point = {"params.init": "normal", "params.init_std": 0.5, "params.negative_share": 0.2}
    with pytest.raises(StudyError, match="negative_share must be given exactly when init is sign"):
        configuration(space, point)


def test_a_parameter_is_active_where_all_its_conditions_hold():
    domain = Domain.model_validate({"float": [0.1, 1.0], "when": {"a": "x", "b": [1, 2]}})
    assert domain.active({"a": "x", "b": 2})
    for point in ({"a": "x", "b": 3}, {"a": "y", "b": 1}, {"a": "x"}, {}):
        assert not domain.active(point)


def test_the_yaml_of_the_tests_is_plain_yaml():
    assert yaml.safe_load(BASE)["method"] == "batch_ensemble"


def test_files_of_several_methods_share_their_anchors(tmp_path):
    folder = SPACES[0].parent
    study = load_study([folder / "be.yaml", folder / "mc_dropout.yaml"])
    assert [space.method for space in study.candidates] == ["batch_ensemble", "mc_dropout"]
    assert [space.method for space in study.others] == ["single"]
    assert study.name == "be"
    other = tmp_path / "other.yaml"
    other.write_text(
        (folder / "mc_dropout.yaml").read_text().replace("ood_size: 500", "ood_size: 600")
    )
    with pytest.raises(StudyError, match=r"other\.yaml: dataset: must be that of"):
        load_study([folder / "be.yaml", other])


def test_what_stands_beside_include_or_nests_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_text("method: sve\n")
    (tmp_path / "nested.yaml").write_text("include: [own.yaml]\n")
    file = tmp_path / "all.yaml"
    for text, message in {
        "include: [own.yaml]\nfixed: {training: {epochs: 1}}\n": "fixed: must stand in a method's",
        "include: [nested.yaml]\n": "nested.yaml must not include files itself",
        "include: [none.yaml]\n": "include: .*none.yaml: cannot be read",
    }.items():
        file.write_text(text)
        with pytest.raises(StudyError, match=message):
            load_study([file])


@pytest.mark.parametrize("text", ["? [1, 2]\n: 3\n", "fixed: &a\n  params: *a\n"])
def test_odd_yaml_is_one_line(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text + "method: sve\n")
    with pytest.raises(StudyError, match="must be YAML, but"):
        load_study([tmp_path / "odd.yaml"])


def test_a_deep_ensemble_has_no_parameters_of_its_own(tmp_path):
    (tmp_path / "deep.yaml").write_text("method: deep_ensemble\nfixed: {params: {members: 12}}\n")
    with pytest.raises(StudyError, match=r"params.members: must not be given for deep_ensemble"):
        load_study([tmp_path / "deep.yaml"])


def test_a_space_of_the_project_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_study([Path("smoke")]).name == "smoke"
    with pytest.raises(StudyError, match=r"--space smok: must be a file, or one of .*smoke"):
        load_study([Path("smok")])
    (tmp_path / "smoke").write_text("method: single")  # A file of that name goes first.
    assert load_study([Path("smoke")]).candidates == ()


GRID = """
name: grid
dataset: {name: digits}
method: batch_ensemble
fixed: {backbone: {name: mlp, width: 16}, training: {epochs: 2}}
search:
  params:
    init: {choice: [normal, sign]}
    init_std: {choice: [0.5], when: {params.init: normal}}
    negative_share: {choice: [0.2, 0.5], when: {params.init: sign}}
    members: {choice: [2, 4]}
enqueue: all
"""


def test_enqueue_all_crosses_the_choices_that_are_active(load):
    entries = load(GRID).candidates[0].enqueue
    assert [e["name"] for e in entries] == [
        *("init normal, members 2", "init normal, members 4"),
        *("init sign, negative share 0.2, members 2", "init sign, negative share 0.2, members 4"),
        *("init sign, negative share 0.5, members 2", "init sign, negative share 0.5, members 4"),
    ]
    assert entries[0] == {
        "name": "init normal, members 2",
        "params.init": "normal",
        "params.init_std": 0.5,
        "params.members": 2,
    }


def test_enqueue_all_needs_choices(load):
    with pytest.raises(StudyError, match=r"enqueue: all needs choices alone, but params.init_std"):
        load(BASE.partition("enqueue:")[0] + "enqueue: all\n")


def test_enqueue_all_needs_as_many_trials(load):
    with pytest.raises(StudyError, match="at least the 6 enqueued"):
        load(GRID, ["budget.trials=5"])

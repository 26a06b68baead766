"""What is declared before the test set is opened is read again, and kept when it changes."""

import json

import pytest

from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.stages import plan
from study.stages.plan import Arm, declare


@pytest.fixture
def store(tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    return store


@pytest.fixture
def arms(make_spec):
    return [
        Arm(spec=make_spec().alone(), role="single", reason="anchor", name="single"),
        Arm(
            spec=make_spec("batch_ensemble", {"members": 3}).alone(),
            role="candidate",
            reason="validation",
            stratum="x=1",
        ),
    ]


def declared(study, arms, store, seeds=5):
    return declare(study, arms, {"single": 4}, seeds, "as asked for", store)


def test_an_arm_says_what_is_trained_and_nothing_of_a_trial(arms, make_spec):
    spec = make_spec("batch_ensemble", {"members": 3})
    content = arms[1].to_json()
    assert (content["members"], content["method"]) == (3, "batch_ensemble")
    assert content["configuration"] == spec.configuration
    assert set(content["spec"]) == set(make_spec().model_dump()) - {
        "role", "stage", "replicate", "seed",
    }  # fmt: skip


@pytest.mark.parametrize("seeds", ["auto", 5])
def test_a_plan_is_read_as_it_was_declared(smoke, arms, store, seeds):
    protocol = smoke.protocol.model_copy(update={"seeds": seeds})
    made = declared(smoke.model_copy(update={"protocol": protocol}), arms, store)
    written = json.loads(store.plan.read_text())
    assert plan.read(store) == made
    assert json.loads(json.dumps(plan.read(store).to_json())) == written
    assert list(written)[:3] == ["study", "protocol", "arms"]
    assert ("seeds" in made.content) == (seeds == "auto")


def test_the_same_declaration_is_written_once(smoke, arms, store):
    first = declared(smoke, arms, store)
    before = store.plan.read_text().replace(first.declared, "2020-01-01T00:00:00+00:00")
    store.plan.write_text(before)
    assert declared(smoke, arms, store).declared == "2020-01-01T00:00:00+00:00"
    assert store.plan.read_text() == before


def test_what_was_declared_before_is_kept_word_for_word(smoke, arms, store):
    hashes = [declared(smoke, arms[:1], store).hash]
    content = json.loads(store.plan.read_text())
    content["protocol"]["of an older release"] = 1
    store.plan.write_text(json.dumps(content))
    for number in (2, 1, 2):
        hashes.append(declared(smoke, [*arms, *arms][:number], store).hash)
    found = plan.read(store)
    assert [revision.hash for revision in found.revisions] == hashes[:-1]
    kept = json.loads(store.plan.read_text())["revisions"][0]
    assert kept == {key: content[key] for key in ("hash", "declared", "protocol", "arms")}


def test_a_plan_that_is_none_is_one_line(smoke, arms, store):
    store.plan.write_text('{"arms": []}')
    with pytest.raises(StudyError, match=r"plan\.json: "):
        plan.read(store)
    with pytest.raises(StudyError, match=r"plan\.json: "):
        declared(smoke, arms, store)

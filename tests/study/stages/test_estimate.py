"""How much space a study takes."""

from study.run_folder.store import RunFolder
from study.stages import estimate


def test_a_study_that_does_not_fit_is_said_to(smoke, data, tmp_path, monkeypatch):
    store = RunFolder(tmp_path / "run")
    store.create()
    assert estimate.shortage(smoke, data, store) is None
    monkeypatch.setattr(estimate, "estimate", lambda *_: 1e18)
    assert "may take 1,000,000,000,000 MB more" in estimate.shortage(smoke, data, store)


def test_logits_are_what_takes_the_space(smoke, data):
    twice = smoke.model_copy(update={"precision": "float32"})
    assert estimate.estimate(twice, data) == 2 * estimate.estimate(smoke, data)
    # Seeds, arms, rows, sets of logits, classes and bytes of each logit.
    rows = len(data.test[1]) + len(data.shift.labels) + 50
    assert estimate.estimate(smoke, data) == 3 * (2 * (2 + 3) + 3) * rows * 6 * 10 * 2

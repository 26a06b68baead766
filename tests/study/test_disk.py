"""How much space a study takes."""

from study import disk
from study.store import Store


def test_a_study_that_does_not_fit_is_said_to(smoke, data, tmp_path, monkeypatch):
    store = Store(tmp_path / "run")
    store.create()
    assert disk.shortage(smoke, data, store) is None
    monkeypatch.setattr(disk, "estimate", lambda *_: 1e18)
    assert "may take 1,000,000,000,000 MB more" in disk.shortage(smoke, data, store)


def test_logits_are_what_takes_the_space(smoke, data):
    twice = smoke.model_copy(update={"precision": "float32"})
    assert disk.estimate(twice, data) == 2 * disk.estimate(smoke, data)
    # Seeds, arms, rows, sets of logits, classes and bytes of each logit.
    rows = len(data.test[1]) + len(data.shift.labels) + 50
    assert disk.estimate(smoke, data) == 3 * (2 + 3 + 3) * rows * 6 * 10 * 2

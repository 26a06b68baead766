"""How much space a study takes."""

from study.run_folder.store import RunFolder
from study.space.domain import Domain
from study.stages import estimate, pilot


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


def test_a_pilot_and_a_single_network_with_seeds_of_its_own_are_counted(smoke):
    """A pilot trains a Deep Ensemble as large as any that is searched, and single networks."""
    (space,) = smoke.candidates
    many = space.search | {"params.members": (Domain(choice=(2, 32)),)}
    large = smoke.model_copy(update={"candidates": (space.model_copy(update={"search": many}),)})
    each = {"single": 1.0, "batch_ensemble": 0.0, "mc_dropout": 0.0}

    def cost(**protocol):
        study = large.model_copy(update={"protocol": large.protocol.model_copy(update=protocol)})
        return estimate.total(study, each)

    more = cost(seeds="auto") - cost(seeds=pilot.MOST)
    assert more == (1 + 32) * smoke.budget.pilot_seeds
    assert cost(single_seeds=1000) - cost(single_seeds=500) == 500

"""What a rehearsal does of a trial."""

import torch

from study.search.points import enqueued_points, sampled_points
from study.trials import rehearsal
from study.trials.rehearsal import one_step


def test_for_its_memory_the_largest_batch_is_predicted_twice(smoke, data, monkeypatch):
    found, predict = [], rehearsal.predict

    def noted(method, pixels):
        found.append((method.members, predict(method, pixels)))

    monkeypatch.setattr(rehearsal, "predict", noted)
    space = smoke.candidates[0]
    point = [*enqueued_points(space), *sampled_points(space, 1)][0]
    one_step(space, point, data, 8)
    assert not found
    one_step(space, point, data, 8, predicts=True)
    ((members, logits),) = found
    assert logits.shape == (members, 2 * (2048 // members), data.classes)
    assert bool(torch.isfinite(logits).all())

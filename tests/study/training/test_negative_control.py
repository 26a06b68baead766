"""The negative control's members cannot differ, whatever trains them."""

import torch

from study import datasets
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.prediction import predict
from study.trials.trial import build


def test_members_without_own_learning_stay_identical_under_dropout(make_spec, options):
    data = datasets.load(options, None)
    params = {"init": "ones", "bias": "shared", "fast_lr_multiplier": 0.0}
    method = build(make_spec("batch_ensemble", params, dropout=0.3), data.shape, data.classes)
    pixels = DeviceImages(data.train[0], *channel_statistics(data.train[0]), torch.device("cpu"))
    training = Training(epochs=3, batch_size=20, lr=0.2, weight_decay=1e-3)
    fit(method, pixels, torch.tensor(data.train[1]), training, Regularisation(), seed=1)
    logits = predict(method, pixels)
    assert torch.equal(logits, logits[:1].expand_as(logits))
    assert bool((method.perturbations() == 0).all())

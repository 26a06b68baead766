"""Where images lie, and what is drawn to augment them."""

import numpy as np
import pytest
import torch

from study.training import batches
from study.training.batches import DeviceImages, Splits

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)


def made(images, **options):
    return DeviceImages(images, torch.full((3,), 100.0), torch.full((3,), 50.0), **options)


@pytest.mark.parametrize("small", [True, False])
def test_streamed_images_are_those_that_are_kept(images, monkeypatch, small):
    monkeypatch.setattr(batches, "SMALL", 2**22 if small else 0)
    kept, streamed = (made(images, device=CPU, kept=kept) for kept in (True, False))
    whole = kept.batch(torch.arange(30))
    assert [len(x) for x in streamed.batches(7)] == [7, 7, 7, 7, 2]
    for own in (kept, streamed):
        assert torch.equal(torch.cat(list(own.batches(7))), whole)
        assert torch.equal(own.batch(torch.tensor([3, 1])), whole[[3, 1]])


def test_training_images_alone_are_kept_on_the_device(data, monkeypatch):
    monkeypatch.setattr(batches, "SMALL", 0)
    splits = Splits(data, META)
    train, labels = splits.train
    assert train.images.device == labels.device == META
    assert splits.pixels(data.train[0]) is train
    for images in (data.val[0], data.test[0], data.shift.images, *data.ood.values()):
        own = splits.pixels(images)
        assert own.images.device == CPU
        assert own.images.data_ptr() == images.ctypes.data  # And not copied there.
        assert {x.device for x in own.batches(1000)} == {META}
        assert splits.some(images, 5).device == META


@pytest.mark.parametrize("flip", [False, True])
def test_an_epochs_crops_are_those_drawn_batch_by_batch(images, flip):
    own, sizes = made(images, device=CPU), [10, 10, 7]
    together, apart = (torch.Generator().manual_seed(3) for _ in range(2))
    crops = own.draw_crops(sizes, flip, together)
    start = 0
    for size in sizes:
        now = crops.of(slice(start, start + size))
        y, x = torch.randint(3, (2, size), generator=apart)
        assert torch.equal(now.y, y)
        assert torch.equal(now.x, x)
        if flip:
            assert torch.equal(now.flipped, torch.rand(size, generator=apart) < 0.5)
        start += size
    assert (crops.flipped is None) == (not flip)
    assert torch.equal(together.get_state(), apart.get_state())

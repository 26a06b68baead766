import pytest
import torch
from pydantic import ValidationError
from torch import nn

from study.backbones.cnn import Network, Params
from study.errors import StudyError


def test_channels_are_the_convolutions() -> None:
    network = Network(Params(channels=[4, 6, 8]), (3, 32, 32), 10)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(3, 4), (4, 6), (6, 8)]
    assert network.hidden.in_features == 8 * 4 * 4


def test_default_is_of_lenets_size() -> None:
    network = Network(Params(), (1, 28, 28), 10)
    assert sum(p.numel() for p in network.parameters()) == 105_914


def test_more_halvings_than_the_image_has_are_refused() -> None:
    with pytest.raises(StudyError, match="at most 3 entries for 8x8 images, but has 4; shorten"):
        Network(Params(channels=[4] * 4), (1, 8, 8), 10)


def test_a_single_row_is_convolved_along_itself() -> None:
    network = Network(Params(channels=[4, 6]), (1, 1, 40), 10)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convs] == [(4, 1, 1, 3), (6, 4, 1, 3)]
    assert network.hidden.in_features == 6 * 10
    assert network(torch.zeros(2, 1, 1, 40)).shape == (2, 10)
    with pytest.raises(StudyError, match="at most 5 entries for 1x40 images, but has 6; shorten"):
        Network(Params(channels=[4] * 6), (1, 1, 40), 10)


def test_channels_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="channels must all be at least 1, but are"):
        Params(channels=[4, 0])

"""What a method costs, against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study import methods
from study.diagnostics.cost import Flops, Size, counter, flops, size
from study.layers.perturbed import BATCH
from study.methods.quantised_ensemble import GIVEN
from study.trials.trial import build

BE = {"members": 3, "init": "normal", "init_std": 0.5}


def test_matrix_products_are_counted(make_spec, data):
    device = torch.device("cpu")
    network = build(make_spec(), data.shape, data.classes)
    counted = 64 * 16 + 16 + 16 * 10 + 10
    expected = Size(parameters=counted, trainable=counted, stored_bytes=4 * counted)
    assert size(network) == expected
    single = flops(network, data.shape, device, 8)
    forward = 2 * (64 * 16 + 16 * 10)
    assert single.infer_flops == forward
    # Backward: the gradient of every weight, and of every input but the first layer's.
    assert single.train_flops == 2 * forward + 2 * 16 * 10
    deep = build(make_spec("deep_ensemble", {"members": 3}), data.shape, data.classes)
    assert flops(deep, data.shape, device, 8) == Flops(*(3 * n for n in single))
    assert size(deep) == Size(*(3 * n for n in expected))


def test_composed_weights_are_shared_by_the_batch_in_training_and_free_in_prediction(
    make_spec, data
):
    rank = {"members": 2, "rank": 4, "init": "normal", "init_std": 0.5}
    method = build(make_spec("batch_ensemble", rank), data.shape, data.classes)
    by_batch = {n: flops(method, data.shape, torch.device("cpu"), n) for n in (4, 8, 64)}
    composing = 2 * 2 * 4 * (64 * 16 + 16 * 10)  # members, multiply and add, rank, entries
    products = 2 * 2 * (64 * 16 + 16 * 10)
    backward = products + 2 * 2 * 16 * 10
    for n, found in by_batch.items():
        assert found.infer_flops == products
        # Composing has two gradients: of A and of B.
        assert found.train_flops == round(products + backward + 3 * composing / n)


def test_grouped_convolutions_cost_a_share_of_dense_ones():
    counts = {}
    for groups in (1, 4):
        layer = nn.Conv2d(16, 8, 3, padding=1, groups=groups)
        with counter() as counted:
            layer(torch.zeros(2, 16, 5, 5, requires_grad=True)).sum().backward()
        counts[groups] = counted.get_total_flops()
    assert counts[1] == 3 * 2 * 2 * 25 * 16 * 8 * 9
    assert counts[1] == 4 * counts[4]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("sve", {"members": 2}),
        ("lora_ensemble", {"members": 2}),
        ("batch_ensemble", BE | {"warm_start": 0.5}),
        ("split_ensemble", {"groups": 2}),
        ("quantised_ensemble", {"members": 2} | GIVEN),
    ],
)
def test_what_phases_add_is_on_the_methods_device(make_spec, data, method, params):
    device = torch.device("meta")
    ensemble = build(make_spec(method, params), data.shape, data.classes).to(device)
    assert flops(ensemble, data.shape, device, 8).infer_flops > 0


def test_a_warm_start_costs_what_the_plain_network_does(make_spec, data):
    def train_flops(method, **params):
        ensemble = build(make_spec(method, params), data.shape, data.classes)
        return flops(ensemble, data.shape, torch.device("cpu"), 8).train_flops

    warm, plain, cold = (
        train_flops("batch_ensemble", **BE, warm_start=0.25),
        train_flops("single"),
        train_flops("batch_ensemble", **BE),
    )
    assert warm == round(0.25 * plain + 0.75 * cold)


@pytest.mark.parametrize("method", ["snapshot_ensemble", "swag"])
def test_members_from_one_training_cost_as_many_networks(make_spec, data, method):
    ensemble = build(make_spec(method, {"members": 3}), data.shape, data.classes)
    single = size(build(make_spec(), data.shape, data.classes))
    for phase in ensemble.phases():
        phase.begin()
        for _ in range(2):
            ensemble.training_forward(torch.zeros(4, *data.shape), torch.zeros(4).long())
            phase.after_epoch()
        phase.end()
    found = size(ensemble)
    assert found == Size(3 * single.parameters, single.trainable, 3 * single.stored_bytes)


def test_split_batches_cost_a_share_of_repeated_ones(make_spec, data):
    costs = {
        batch: flops(
            build(make_spec("batch_ensemble", BE | {"batch": batch}), data.shape, data.classes),
            data.shape,
            torch.device("cpu"),
            6,
        )
        for batch in ("repeat", "split")
    }
    assert costs["repeat"].train_flops == 3 * costs["split"].train_flops
    assert costs["repeat"].infer_flops == costs["split"].infer_flops


def test_attention_is_counted_forwards_and_backwards():
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    product = 2 * 2 * 3 * 5 * 7 * 8
    with counter() as counted:
        y = F.scaled_dot_product_attention(query, key, value)
        assert counted.get_total_flops() == 2 * product
        y.sum().backward()
    # Backwards the scores are computed again, and each of the two products has two gradients.
    assert counted.get_total_flops() == 7 * product


@pytest.mark.parametrize("batch", [4, 64])
def test_a_convolution_is_counted_in_the_form_that_the_batch_gives_it(batch):
    """Between few examples and many its form changes, and with it the input's gradient."""

    def network():
        return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Flatten(), nn.Linear(64 * 4, 5))

    method = methods.build("batch_ensemble", BE, network, 0)
    x, y = torch.zeros(batch, 3, 2, 2), torch.zeros(batch, dtype=torch.long)
    with counter() as counted:
        logits, labels = method.training_forward(x, y)
        method.loss(logits, labels, 0.0).backward()
    found = flops(method, (3, 2, 2), torch.device("cpu"), batch)
    assert found.train_flops == counted.get_total_flops() // batch


def test_where_counting_fails_later_trials_keep_their_form():
    method = methods.build("batch_ensemble", BE, lambda: nn.Linear(4, 3), 0)
    with pytest.raises(RuntimeError):
        flops(method, (1, 7, 7), torch.device("cpu"), 6)
    assert BATCH.get() is None

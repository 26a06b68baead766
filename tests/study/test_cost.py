"""What a method costs, against closed forms."""

import torch
from torch.nn import functional as F

from study.cost import counter, flops, size
from study.trial import build

BE = {"members": 3, "init": "normal", "init_std": 0.5}


def test_matrix_products_are_counted(make_spec, data):
    device = torch.device("cpu")
    network = build(make_spec(), data.shape, data.classes)
    counted = 64 * 16 + 16 + 16 * 10 + 10
    expected = {"parameters": counted, "trainable": counted, "stored_bytes": 4 * counted}
    assert size(network) == expected
    single = flops(network, data.shape, device)
    forward = 2 * (64 * 16 + 16 * 10)
    assert single["infer_flops"] == forward
    # Backward: the gradient of every weight, and of every input but the first layer's.
    assert single["train_flops"] == 2 * forward + 2 * 16 * 10
    deep = build(make_spec("deep_ensemble", {"members": 3}), data.shape, data.classes)
    assert flops(deep, data.shape, device) == {k: 3 * v for k, v in single.items()}
    assert size(deep) == {k: 3 * v for k, v in expected.items()}


def test_composed_weights_are_shared_by_the_batch(make_spec, data):
    rank = {"members": 2, "rank": 4, "init": "normal", "init_std": 0.5}
    method = build(make_spec("batch_ensemble", rank), data.shape, data.classes)
    by_batch = {n: flops(method, data.shape, torch.device("cpu"), n) for n in (2, 8, 64)}
    composing = 2 * 2 * 4 * (64 * 16 + 16 * 10)  # members, multiply and add, rank, entries
    products = 2 * 2 * (64 * 16 + 16 * 10)
    for n, found in by_batch.items():
        assert found["infer_flops"] == products + composing // n
    assert by_batch[64]["train_flops"] < by_batch[8]["train_flops"]


def test_split_batches_cost_a_share_of_repeated_ones(make_spec, data):
    costs = {
        batch: flops(
            build(make_spec("batch_ensemble", BE | {"batch": batch}), data.shape, data.classes),
            data.shape,
            torch.device("cpu"),
        )
        for batch in ("repeat", "split")
    }
    assert costs["repeat"]["train_flops"] == 3 * costs["split"]["train_flops"]
    assert costs["repeat"]["infer_flops"] == costs["split"]["infer_flops"]


def test_attention_is_counted_forwards_and_backwards():
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    product = 2 * 2 * 3 * 5 * 7 * 8
    with counter() as counted:
        y = F.scaled_dot_product_attention(query, key, value)
        assert counted.get_total_flops() == 2 * product
        y.sum().backward()
    # Backwards the scores are computed again, and each of the two products has two gradients.
    assert counted.get_total_flops() == 7 * product

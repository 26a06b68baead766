"""Every method of the project on every backbone."""

import pytest

from study.plugins import names
from tests.conformance import check_method

PARAMS = {
    "single": [{}],
    "deep_ensemble": [{"members": 2}],
    "mc_dropout": [{"members": 3}],
    "batch_ensemble": [
        {"members": 2, "init": "normal", "init_std": 0.5},
        {"members": 2, "init": "sign", "negative_share": 0.5, "batch": "split"},
        {"members": 2, "init": "normal", "init_std": 0.5, "rank": 2, "bias": "random"},
        {"members": 2, "init": "normal", "init_std": 0.5, "rank": "full"},
        {"members": 2, "init": "normal", "init_std": 0.5, "bias": "shared", "layers": "no_last"},
    ],
}


def test_every_method_is_checked():
    assert set(PARAMS) == set(names("study.methods"))


@pytest.mark.parametrize("backbone", names("study.backbones"))
@pytest.mark.parametrize(
    ("method", "params"), [(m, p) for m, many in PARAMS.items() for p in many], ids=str
)
def test_method_on_backbone(method, params, backbone):
    check_method(method, params, backbone)

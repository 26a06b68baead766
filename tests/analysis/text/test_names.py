"""Configurations are named by what sets them apart."""

from typing import Any

from analysis.text.names import apart


def spec(name: str = "none", **params: Any) -> dict[str, Any]:
    return {"params": params, "regulariser": {"name": name}, "training": {"lr": 0.1}}


def test_regulariser_size_and_start_name_a_configuration() -> None:
    found = apart([spec("adp", members=8, init="sign"), spec(members=4, init="normal")])
    assert found == ["ADP, 8 members, signs", "4 members, normal init"]


def test_only_what_is_alike_is_told_apart_by_more() -> None:
    one, two, three = (spec(members=4, init="sign", rank=rank) for rank in (1, "full", 1))
    three["training"] = {"lr": 0.25}
    other = spec("hsic", members=4, init="sign", rank=1)
    assert apart([one, two, three, other]) == [
        "4 members, signs, rank 1, lr 0.1",
        "4 members, signs, full rank",
        "4 members, signs, rank 1, lr 0.25",
        "HSIC, 4 members, signs",
    ]


def test_one_alone_and_none_at_all_have_names() -> None:
    assert apart([{"params": {"members": 2}}]) == ["2 members"]
    assert apart([]) == []
    assert apart([{}, {}]) == ["", ""]


def test_lists_are_told_apart() -> None:
    one, two = spec(members=4), spec(members=4)
    one["backbone"], two["backbone"] = {"channels": [8, 16]}, {"channels": [16, 32]}
    assert apart([one, two]) == ["4 members, channels 8-16", "4 members, channels 16-32"]
    assert apart([one, one]) == ["4 members", "4 members"]

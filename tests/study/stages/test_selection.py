"""Ranks, strata and shortlist on cases small enough to see."""

from study.stages.selection import rank, shortlist
from tests.study.conftest import some_row


def row(configuration, nll, shift, gain, members=4, status="complete"):
    values = {"val_nll": nll, "val_shift_nll": shift, "val_gain": gain}
    return some_row(configuration=configuration, members=members, status=status, **values)


def test_clean_validation_nll_alone_ranks():
    rows = [row("b", 2, 1, 0), row("a", 1, 3, 0), row("c", 3, 0, 0)]
    assert rank(rows) == ["a", "b", "c"]


def test_gain_is_no_merit_but_its_lack_is_a_fault():
    rows = [row("dull", 1, 1, 0.0), row("good", 2, 2, 0.1), row("wild", 3, 3, 9.0)]
    rows.append(row("bad", 4, 4, 0.2))
    assert rank(rows) == ["dull", "good", "wild", "bad"]
    assert rank(rows, penalise_low_gain=True) == ["good", "wild", "bad", "dull"]


def test_a_lone_size_is_in_the_middle():
    rows = [row(str(i), i, i, 0, members=4) for i in range(1, 5)] + [row("lone", 1, 1, 0, 8)]
    assert rank(rows) == ["1", "2", "lone", "3", "4"]


def test_objectives_are_averaged_over_seeds_and_failures_left_out():
    rows = [
        row("lucky", 0.0, 0, 0),
        row("lucky", 0.0, 0, 0),
        row("lucky", 9.0, 0, 0),
        row("steady", 1.0, 0, 0),
        row("gone", None, None, None, status="diverged"),
    ]
    assert rank(rows) == ["steady", "lucky"]


def test_ranks_are_within_one_ensemble_size():
    rows = [row("small", 1, 1, 0.1, members=2), row("large", 2, 2, 9, members=8)]
    rows += [row("worse small", 3, 3, 0.05, members=2), row("worse large", 4, 4, 5, members=8)]
    assert set(rank(rows)[:2]) == {"small", "large"}


def test_the_single_model_is_ranked_though_its_gain_is_constant():
    assert rank([row("b", 2, 2, 0, 1), row("a", 1, 1, 0, 1)]) == ["a", "b"]


def test_shortlist_keeps_the_known_and_spreads_over_strata():
    strata = {"a": "x", "b": "x", "c": "x", "d": "y", "known": "x"}
    ordered = ["a", "known", "b", "c", "d"]
    chosen = shortlist(ordered, strata, ["known"], size=4, per_stratum=2)
    assert chosen == ["known", "a", "b", "d"]


def test_shortlist_never_drops_the_known():
    assert shortlist(["a"], {"a": "x"}, ["k", "l", "m"], size=2, per_stratum=2) == ["k", "l", "m"]

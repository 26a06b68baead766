"""What methods cost, and what nothing as cheap surpasses."""

import polars as pl

from analysis.figures.cost import with_front


def test_the_front_is_what_nothing_as_cheap_surpasses() -> None:
    rows = pl.DataFrame(
        {
            "panel": ["a", "a", "a", "a", "b", "b"],
            "cost": [1.0, 1.0, 2.0, 4.0, 3.0, 2.0],
            "estimate": [0.0, 0.3, 0.2, 1.0, 0.5, 0.5],
        }
    )
    kept = with_front(rows).filter("front").select("panel", "cost", "estimate").rows()
    assert kept == [("a", 1.0, 0.3), ("a", 4.0, 1.0), ("b", 2.0, 0.5)]

"""Effects of a factorial are those that were planted, and their intervals cover them."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis import factorial
from analysis.factorial import effects
from analysis.stats import resampling
from study.errors import StudyError

FACTORS = ["params.init", "params.decay", "backbone.width"]
LEVELS = [("normal", "sign"), ("none", "same", "one"), (8, 16)]
SINGLE, GAP = {8: 2.0, 16: 1.0}, {8: 0.5, 16: 0.2}
"""Loss of the single network of each width, and how much better its Deep Ensemble is."""


def planted(init: str, decay: str, width: int) -> float:
    """Return the true recovery of a cell: two main effects and an interaction."""
    both = 0.2 if (init, decay) == ("sign", "same") else 0.0
    return 0.1 + 0.5 * (init == "sign") - 0.3 * (decay == "same") + both


def publish(folder: Path, seed: int = 0, noise: float = 0.03, seeds: int = 15) -> Path:
    rng = np.random.default_rng(seed)
    rows, arms, verdicts = [], [], []

    def run(arm: str, loss: float) -> None:
        for replicate in range(seeds):
            value = loss + noise * rng.normal()
            rows.append({"arm": arm, "replicate": replicate, "cll": value, "gain": -value})

    for width in LEVELS[2]:
        run(f"matched_single-{width}", SINGLE[width])
        run(f"matched_deep_ensemble-{width}-4", SINGLE[width] - GAP[width])
    for init, decay, width in product(*LEVELS):
        key = f"{init}{decay}{width}"
        run(key, SINGLE[width] - GAP[width] * planted(init, decay, width))
        spec = {"params": {"init": init, "decay": decay}, "backbone": {"width": width}}
        arms.append({"role": "candidate", "configuration": key, "spec": spec})
        own = {
            "single": f"matched_single-{width}",
            "deep_ensemble": f"matched_deep_ensemble-{width}-4",
        }
        verdicts.append({"arm": key, "own": own})
    arms.append({"role": "single", "configuration": "s", "spec": {}})
    folder.mkdir()
    labels = {"cll": "calibrated NLL", "gain": "ensemble gain"}
    protocol = {"endpoints": ["cll", "gain"], "labels": labels}
    (folder / "plan.json").write_text(json.dumps({"arms": arms}))
    (folder / "verdict.json").write_text(json.dumps({"arms": verdicts, "protocol": protocol}))
    pl.DataFrame(rows).write_parquet(folder / "replicates.parquet")
    return folder


def chosen(found: pl.DataFrame, **which: object) -> dict[str, float]:
    (row,) = found.filter(*(pl.col(k).eq_missing(pl.lit(v)) for k, v in which.items())).to_dicts()
    return row


def test_without_noise_every_effect_is_the_planted_one(tmp_path: Path) -> None:
    found = effects(publish(tmp_path / "f", noise=0.0), FACTORS)
    for endpoint in ("cll", "gain"):
        own = found.filter(pl.col("endpoint") == endpoint)
        sign = chosen(own, kind="effect", factor="params.init", level="sign")
        assert sign["estimate"] == pytest.approx(0.5 + 0.2 / 3)
        same = chosen(own, kind="effect", factor="params.decay", level="same")
        assert same["estimate"] == pytest.approx(-0.3 + 0.2 / 2)
        width = chosen(own, kind="effect", factor="backbone.width", level="16")
        assert width["estimate"] == pytest.approx(0, abs=1e-9)
        pair = chosen(own, kind="pair", level="sign × same")
        assert pair["estimate"] == pytest.approx(0.1 + 0.5 - 0.3 + 0.2)
        assert pair["cells"] == 2


def test_intervals_cover_the_truth_as_often_as_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 400)
    inside = 0
    for seed in range(120):
        found = effects(publish(tmp_path / f"{seed}", seed), FACTORS)
        row = chosen(found, endpoint="cll", kind="effect", factor="params.init", level="sign")
        inside += row["low"] <= 0.5 + 0.2 / 3 <= row["high"]
    assert 104 <= inside <= 120  # Of 120 at 95 %, less than three standard errors away.


def test_sizes_of_one_pool_share_its_seeds(tmp_path: Path) -> None:
    """Their means go up and down together, so an effect of the size is not blurred by the pool."""
    values = np.random.default_rng(0).normal(size=20)
    rows = [
        {"arm": arm, "replicate": n, "cll": value + shift}
        for arm, shift in (("deep_ensemble-2", 0.0), ("deep_ensemble-4", -1.0), ("other", 0.0))
        for n, value in enumerate(values)
    ]
    means = factorial.Means(pl.DataFrame(rows), "cll")
    np.testing.assert_allclose(means.of("deep_ensemble-2") - means.of("deep_ensemble-4"), 1)
    assert np.ptp(means.of("deep_ensemble-2") - means.of("other")) > 0.1


def test_what_is_no_factorial_is_one_line(tmp_path: Path) -> None:
    folder = publish(tmp_path / "f")
    with pytest.raises(StudyError, match="each of the 6 combinations"):
        effects(folder, FACTORS[:2])
    with pytest.raises(StudyError, match="a factor must be a key"):
        effects(folder, [*FACTORS, "params.rank"])


def test_what_cannot_be_computed_is_one_line(tmp_path: Path) -> None:
    folder = publish(tmp_path / "f")
    verdict = json.loads((folder / "verdict.json").read_text())
    verdict["arms"][0]["own"] = None
    (folder / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(StudyError, match="anchors of its own"):
        effects(folder, FACTORS)
    with pytest.raises(StudyError, match="two seeds or more"):
        effects(publish(tmp_path / "one", seeds=1), FACTORS)
    with pytest.raises(StudyError, match="must be a published result"):
        effects(tmp_path / "none", FACTORS)


def test_a_gap_that_is_not_shown_gives_no_number(tmp_path: Path) -> None:
    found = effects(publish(tmp_path / "f", noise=2.0), FACTORS)
    assert found["estimate"].is_nan().any()
    labels = {"cll": "calibrated NLL", "gain": "ensemble gain"}
    json.dumps(factorial.chart(found, labels).to_dict(), allow_nan=False)


def test_it_writes_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "f")
    monkeypatch.setattr(factorial, "RESULTS", tmp_path)
    assert factorial.main(["f", *FACTORS]) == 0
    assert "params.init: sign against normal: +0." in capsys.readouterr().out
    assert {"effects.csv", "effects.svg"} <= {file.name for file in (tmp_path / "f").iterdir()}
    assert factorial.main(["none", *FACTORS]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_published_effects_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "f")
    monkeypatch.setattr(factorial, "RESULTS", tmp_path)
    assert factorial.main(["f", *FACTORS]) == 0
    assert factorial.main([]) == 0
    assert capsys.readouterr().out.endswith("f: effects as published\n")
    file = tmp_path / "f" / factorial.EFFECTS
    table = pl.read_csv(file)
    changed = table.with_columns(pl.col("low").cast(pl.Float64) - 0.001)
    file.write_text(changed.write_csv())
    assert factorial.main([]) == 1
    assert "differ" in capsys.readouterr().out

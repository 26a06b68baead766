"""The table of the validation: all questions, simulated, as JSON and Markdown."""

import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from multiprocessing import get_context
from platform import python_version
from typing import Any, Final

import numpy as np

from analysis.data.run import load
from analysis.validation.gaussian import one_endpoint, three_endpoints
from analysis.validation.matched import matched
from analysis.validation.planted import from_predictions, search
from analysis.validation.populations import generated, of_run, planted
from analysis.validation.questions import LIMIT, TOLERANCE, Cell, Row, run
from analysis.validation.stress import gate, stress
from study.run_folder.paths import AnyPath
from study.thresholds import ALPHA

REPLICATIONS: Final = 4000
QUICK: Final = 400
UNITS: Final = 200
QUICK_UNITS: Final = 40
EFFECTS: Final = (0.1, 0.25, 0.5, 1.0)
QUICK_EFFECTS: Final = (0.25,)


@dataclass(frozen=True)
class Table:
    """All rows, and how they were made."""

    rows: list[Row]
    made: dict[str, Any]

    @property
    def fails(self) -> list[Row]:
        """Rows with too many wrong verdicts."""
        return [row for row in self.rows if row.fails]

    @property
    def summary(self) -> str:
        """What came of it, in one line."""
        sizes = [row for row in self.rows if row.kind == "size"]
        off = sum(row.off_plan for row in self.rows)
        largest = max(row.value for row in sizes)
        return (
            f"{len(self.fails)} of {len(sizes)} shares of wrong verdicts are above {LIMIT:g} by "
            f"more than the simulation's error (declared {ALPHA:g}; largest {largest:.3f}); {off} "
            f"of {sum(row.kind == 'power' for row in self.rows)} shares of right ones are more "
            f"than {TOLERANCE:g} from the plan"
        )


def validate(
    runs: AnyPath | None = None,
    replications: int | None = None,
    seed: int = 0,
    quick: bool = False,
    workers: int = 1,
) -> Table:
    """Run all cells, or the quick ones; the numbers do not depend on ``workers``.

    Raises:
        StudyError: When ``runs`` cannot be used.
    """
    times = replications or (QUICK if quick else REPLICATIONS)
    rng = np.random.default_rng([seed, 0])
    members = of_run(load(runs)) if runs else generated(rng)
    truths = planted(members, QUICK_UNITS if quick else UNITS, rng)
    effects = from_predictions(truths, QUICK_EFFECTS if quick else EFFECTS)
    known = one_endpoint(), three_endpoints(), matched(), stress(), gate()
    cells = chain(*known, effects, search(truths))
    chosen = [cell for cell in cells if cell.quick or not quick]
    words = ["python -m analysis.validation", *(["--quick"] if quick else [])]
    words += [f"--replications {times} --seed {seed}", *([f"--runs {runs.name}"] if runs else [])]
    made = {
        "command": " ".join(words),
        "predictions": str(runs.name) if runs else "generated",
        "members": len(members.test),
        "replications": times,
        "seed": seed,
        "quick": quick,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": python_version()} | {n: version(n) for n in ("numpy", "scipy")},
    }
    return Table(list(_rows(chosen, times, seed, workers)), made)


def _rows(cells: Sequence[Cell], times: int, seed: int, workers: int) -> Iterable[Row]:
    work = partial(run, replications=times, seed=seed)
    if workers < 2:
        return [row for rows in _told(map(work, cells), len(cells)) for row in rows]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return [row for rows in _told(pool.map(work, cells), len(cells)) for row in rows]


def _told(each: Iterable[list[Row]], total: int) -> Iterable[list[Row]]:
    """Pass on the rows of every cell and say now and then how far it is."""
    for done, rows in enumerate(each, 1):
        yield rows
        if done % 20 == 0:
            print(f"{done} of {total} designs simulated", file=sys.stderr)


def as_json(table: Table) -> str:
    """Return the table as JSON."""
    rows = [asdict(row) | {"mark": row.mark} for row in table.rows]
    content = {"summary": table.summary, "made": table.made, "rows": rows}
    return json.dumps(content, indent=1, allow_nan=False)


def as_markdown(table: Table) -> str:
    """Return the table as Markdown, one section per scenario."""
    lines = ["# Size and power of the procedure, by simulation", "", f"{table.summary}.", ""]
    for scenario in dict.fromkeys(row.scenario for row in table.rows):
        lines += ["", f"## {scenario.capitalize()}", ""]
        lines += ["| setting | seeds | arms | event | is | share | 95 % | pilot | formula | |"]
        lines += ["| --- " * 10 + "|"]
        lines += [_line(row) for row in table.rows if row.scenario == scenario]
    made = table.made
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    lines += [
        "",
        f"`{made['command']}`: {made['replications']} studies per row (fewer in costly rows), "
        f"seed {made['seed']}, predictions: {made['predictions']} ({made['members']} single "
        f"models); {versions}; {made['made']}.",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    kind = {"size": "wrong", "power": "right", "shown": ""}[row.kind]
    pilot = "" if row.pilot is None else f"{row.pilot:.2f}"
    formula = "" if row.formula is None else f"{'≥ ' if row.bound else ''}{row.formula:.3f}"
    cells = (
        *(row.setting, row.seeds, row.arms, row.event, kind, f"{row.value:.3f}"),
        *(f"{row.low:.3f} to {row.high:.3f}", pilot, formula, row.mark),
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"

"""``--status``: what is done, what failed and what is missing of a study."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from study.errors import StudyError
from study.run_folder.integrity import examine
from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.stages import plan


def status(study: Study, store: RunFolder) -> int:
    """Print counts by stage, role and method, then every trial that is not complete."""
    found, damaged = examine(store)
    rows = list(found.values())
    if not rows and store.read_json(store.study) is None:
        raise StudyError(f"--out {store.root}: there is no study yet; run without --status first")
    console = Console(markup=False)
    counts: Counter[tuple[str, str, str, str]] = Counter(
        (r.stage, r.role, r.method, r.status) for r in rows
    )
    table = Table(title=str(store.root), title_justify="left")
    for heading in ("stage", "role", "method", "status", "trials"):
        table.add_column(heading, justify="right" if heading == "trials" else "left")
    for key, count in sorted(counts.items()):
        table.add_row(*key, str(count))
    console.print(table)
    for row in rows:
        if row.status != "complete":
            console.print(f"{row.trial}: {row.status}: {row.reason}", highlight=False)
    for trial, why in damaged.items():
        console.print(f"{trial}: damaged: {why}", highlight=False)
    console.print(_summary(study, store, counts), highlight=False)
    return 0


def _summary(study: Study, store: RunFolder, counts: Counter[tuple[str, str, str, str]]) -> str:
    done: Counter[str] = Counter()
    for (stage, *_), count in counts.items():
        done[stage] += count
    searched = sum(study.budget.trials if space.search else 1 for space in study.spaces)
    declared = plan.read(store)
    confirm: str | int = "not declared yet"
    if declared is not None:
        confirm = sum(map(declared.seeds_of, declared.arms))
    return (
        f"search {done['search']}/{searched}, rescore {done['rescore']}, pilot {done['pilot']}, "
        f"confirm {done['confirm']}/{confirm}; "
        f"report {'written' if store.report.exists() else 'not written'}"
    )

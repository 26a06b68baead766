"""Kills a study at random moments, again and again, and looks whether anything is lost.

``python -m tests.chaos --kills 100`` (``make chaos``) runs a small study undisturbed, then others
of the same seed whose workers, driver, raylet, GCS or everything at once are killed with SIGKILL.
After each kill every committed trial must still be there, sound, and the very one that was
committed. At the end of each study its trials, proposals and confirmed predictions must be those of
the undisturbed one, to the last digit. Prints what was killed and found; exit status 1 if anything
was not as it must be.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import optuna
import pyarrow.parquet as pq
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from study.run_folder.integrity import examine
from study.run_folder.store import GEOMETRY, ROW, RunFolder

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "search_spaces" / "smoke.yaml"
SHORT = ["budget.trials=8", "protocol.seeds=3", "fixed.training.epochs=60"]
LONG = ["budget.trials=60", "protocol.seeds=40", "fixed.training.epochs=300"]
"""What a study is made of that outlives few kills, or many: about two minutes on two cores."""
MARK = "ESCAPE_STUDY_CHAOS"
TARGETS: Final = {"worker": 10, "driver": 3, "raylet": 2, "gcs": 2, "everything": 3}
"""What is killed, and how often relative to the others."""
AT_WORK: Final = 0.8
"""Share of the starts in which nothing is killed before a trial runs."""
PATIENCE: Final = 120.0
"""Seconds after which a driver that has lost Ray must have ended by itself; Ray's own limits, while
it starts, add up to 70."""


@dataclass
class Campaign:
    """What was done and found."""

    kills: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    starts: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(what)
            print(f"WRONG: {what}", flush=True)


class Run:
    """One start of the command, with all processes that come of it."""

    def __init__(self, out: Path, settings: list[str]) -> None:
        self.mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "study.run", "--space", str(SPACE), "--out", str(out)]
        for setting in settings:
            command += ["--set", setting]
        self.log = (out.parent / f"{out.name}-{self.mark}.log").open("w+")
        self.process = subprocess.Popen(
            command,
            cwd=out.parent,
            env=os.environ | {MARK: self.mark, "PYTHONPATH": str(ROOT)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def pids(self, target: str) -> list[int]:
        """Return the processes that a target names."""
        if target == "driver":
            return [self.process.pid]
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes():
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if target == "everything" or _is(target, command):
                found.append(int(folder.name))
        return found

    def kill(self, target: str) -> bool:
        """Kill one process of the target, or all for everything; tell whether there was one."""
        pids = self.pids(target)
        if target == "worker":
            pids = random.sample(pids, min(1, len(pids)))
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return bool(pids)

    def wait_for_work(self) -> None:
        """Wait until a worker has a trial, or the driver has ended."""
        while self.process.poll() is None and not self.pids("worker"):
            time.sleep(0.2)

    def end(self, patience: float = PATIENCE) -> int | None:
        """Wait for the driver; None if it had to be killed. Leaves no process behind."""
        try:
            code: int | None = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
        self.kill("everything")
        self.process.wait()
        self.log.close()
        return code

    def printed(self) -> str:
        """Return what the command has printed."""
        return Path(self.log.name).read_text()


def _is(target: str, command: str) -> bool:
    return {
        "worker": "ray::" in command and "IDLE" not in command,
        "raylet": "raylet/raylet" in command,
        "gcs": "gcs_server" in command,
    }[target]


def seen(out: Path) -> dict[str, Any]:
    """Return when each committed trial was committed."""
    return {trial: row.finished for trial, row in examine(RunFolder(out))[0].items()}


def stage_of(out: Path) -> str:
    """Return the stage of which the newest trial is."""
    rows = examine(RunFolder(out))[0].values()
    return max(rows, key=lambda row: row.finished).stage if rows else "start"


def disturb(
    out: Path,
    kills: int,
    settings: list[str],
    campaign: Campaign,
    targets: list[str],
    stage: str = "start",
) -> None:
    """Run a study to its end, with so many kills on the way at most, none before ``stage``."""
    before: dict[str, Any] = {}
    left, code = kills, None
    while code != 0:
        run = Run(out, settings)
        campaign.starts += 1
        while stage != "start" and run.process.poll() is None and stage_of(out) != stage:
            time.sleep(0.5)
        if left and random.random() < AT_WORK:
            run.wait_for_work()
        while left and run.process.poll() is None:
            target = random.choices(targets, [TARGETS[name] for name in targets])[0]
            wait = random.uniform(0, 3 if target == "worker" else 12)
            try:
                run.process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                pass
            during = stage_of(out)
            if not run.kill(target):
                continue
            campaign.kills[target] += 1
            campaign.stages[during] += 1
            left -= 1
            now = seen(out)
            for trial, when in before.items():
                campaign.check(now.get(trial) == when, f"{out.name}: {trial} lost or repeated")
            before = now
            damaged = examine(RunFolder(out))[1]
            campaign.check(not damaged, f"{out.name}: damaged after {target}: {damaged}")
            if target != "worker":
                break
        waits = left and run.process.poll() is None
        code = run.end(PATIENCE if left or waits else 3600)
        printed = run.printed()
        campaign.check(code is not None, f"{out.name}: the driver did not end")
        campaign.check("Traceback" not in printed, f"{out.name}: a traceback:\n{printed[-2000:]}")


def history(out: Path) -> dict[str, list[tuple[int, str, str]]]:
    """Return number, state and parameters of each proposal, by method."""
    storage = JournalStorage(JournalFileBackend(str(RunFolder(out).journal)))
    return {
        name: [
            (t.number, t.state.name, repr(sorted(t.params.items())))
            for t in optuna.load_study(study_name=name, storage=storage).get_trials()
        ]
        for name in optuna.get_all_study_names(storage)
    }


def compare(out: Path, undisturbed: Path, campaign: Campaign) -> None:
    """Hold a study that was disturbed against one that was not."""
    one, other = (examine(RunFolder(folder))[0] for folder in (out, undisturbed))
    campaign.check(one.keys() == other.keys(), f"{out.name}: other trials than undisturbed")
    for trial in one.keys() & other.keys():
        own, expected = one[trial].status, other[trial].status
        campaign.check(own == expected, f"{out.name}: {trial} is {own} and was {expected}")
    campaign.check(history(out) == history(undisturbed), f"{out.name}: other proposals")
    for trial, row in other.items():
        if row.stage != "confirm" or trial not in one:
            continue
        for file in undisturbed.glob(f"trials/{trial}/*.parquet"):
            if file.name in (ROW, GEOMETRY):
                continue
            same = pq.read_table(file).equals(pq.read_table(out / "trials" / trial / file.name))
            campaign.check(same, f"{out.name}: {trial}/{file.name} has other numbers")


def main(argv: list[str] | None = None) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--per-study", type=int, default=20, help="kills per study")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when")
    parser.add_argument(
        "--first", choices=["start", "confirm"], help="nothing is killed before; default: in turn"
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    arguments = parser.parse_args(argv)
    random.seed(arguments.seed)
    settings = ["resources.max_failures=1000", "resources.stack=4"]
    settings += LONG if arguments.per_study > 5 else SHORT
    campaign, start = Campaign(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        campaign.check(Run(undisturbed, settings).end(600) == 0, "the undisturbed run failed")
        while (done := campaign.kills.total()) < arguments.kills:
            out = Path(folder) / f"study{campaign.studies}"
            kills = min(arguments.per_study, arguments.kills - done)
            first = arguments.first or ("start", "confirm")[campaign.studies % 2]
            disturb(out, kills, settings, campaign, arguments.targets, first)
            compare(out, undisturbed, campaign)
            campaign.studies += 1
            print(
                f"{out.name}: {campaign.kills.total()} kills so far, "
                f"{time.monotonic() - start:.0f} s, {len(campaign.wrong)} wrong",
                flush=True,
            )
    print(
        f"\n{campaign.kills.total()} kills in {campaign.studies} studies, {campaign.starts} starts"
    )
    print("killed:", ", ".join(f"{k} {n}" for k, n in campaign.kills.most_common()))
    print("while in:", ", ".join(f"{k} {n}" for k, n in campaign.stages.most_common()))
    print(f"found: {len(campaign.wrong)} wrong")
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the analysis costs at scale, beside torchmetrics, torch-uncertainty and scikit-learn.

``python -m benchmarks.analysis_scale``: a run of 100 trials with 10 members, 10,000 examples and
10 classes (100 million logits) is written and measured by ``analysis.measures.measure`` (all of its
metrics, the files it keeps included), by ``analysis.metrics`` (the primary metrics alone), and by
those libraries (the same). A tenth of the trials are pools of the Deep Ensemble, which ``analysis``
also follows from one member to all. Each is a process of its own; CPU seconds are user + system of
it and its children.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

PRIMARY = (
    *("nll", "cll", "brier", "ece", "accuracy", "gain", "member_nll", "predictive_entropy"),
    *("mutual_information", "disagreement"),
)
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cost:
    """What one process took: CPU and wall seconds, those of the work without imports, peak RSS."""

    cpu: float
    wall: float
    work: float
    peak_mib: float
    values: dict[str, list[float]]


# --- the run


def write_run(folder: Path, trials: int, members: int, examples: int) -> None:
    """Write confirm trials of ``members`` each, of ten arms; the first is the Deep Ensemble."""
    from study import parquet_format
    from tests.analysis.make_run import Arm, Data, simulate, table, trial_row

    data = Data(test=examples)
    keys = data.keys("test")
    for number in range(trials):
        seed, arm = divmod(number, 10)
        role: parquet_format.Role = "candidate" if arm else "deep_ensemble"
        spec = Arm(role, f"method{arm}", members, diversity=(10 - arm % 10) / 10)
        row = trial_row(spec, seed)
        here = folder / "trials" / row["trial"][0].as_py()
        here.mkdir(parents=True)
        logits = simulate(spec, data, "test", number)
        pq.write_table(table(logits, keys), here / "test.parquet")
        pq.write_table(row, here / "trial.parquet")


# --- the two sides, each in a process of its own


def ours(folder: Path, workers: int) -> dict[str, list[float]]:
    """Measure the run with this project."""
    from analysis.data.run import load
    from analysis.measures.measure import measure

    found = measure(load(folder), workers).replicates.sort("trial")
    return {name: found[name].to_list() for name in PRIMARY}


def primary(folder: Path) -> dict[str, list[float]]:
    """Measure the primary metrics alone with this project."""
    from analysis import metrics
    from analysis.data.predictions import predictions
    from analysis.data.run import load
    from analysis.measures import metrics_per_split as per_split
    from analysis.measures.trial import calibrated

    def rows_of(logp_MBC: Any, y_B: Any) -> dict[str, Any]:
        logq = metrics.ensemble(logp_MBC)
        return {
            "logq": logq.T,
            "gain": metrics.example_gain(logp_MBC, y_B),
            "mutual_information": metrics.mutual_information(logp_MBC, logq),
            "choice": per_split.choice(logp_MBC),
        }

    run, found = load(folder), []
    for trial, members in run.trials.select("trial", "members").iter_rows():
        data = predictions(run, trial, "test")
        rows, y = per_split.reduce(data, [members], rows_of)[members], data.labels
        logq, gain = rows["logq"].T, rows["gain"].mean()
        losses = calibrated(logq, y)
        assert losses is not None
        values = {name: getattr(metrics, name)(logq, y) for name in ("nll", "brier", "ece")}
        values |= {"accuracy": metrics.accuracy(logq, y), "cll": losses.mean(), "gain": gain}
        values["member_nll"] = values["nll"] + gain
        values["predictive_entropy"] = metrics.predictive_entropy(logq).mean()
        values["mutual_information"] = rows["mutual_information"].mean()
        values["disagreement"] = metrics.disagreement(rows["choice"], logq.shape[-1])
        found.append(values)
    return {name: [float(row[name]) for row in found] for name in PRIMARY}


def theirs(folder: Path) -> dict[str, list[float]]:
    """Measure the same files with the libraries, one trial at a time."""
    import torch

    torch.set_num_threads(1)
    rows = [_by_libraries(file) for file in sorted(folder.glob("trials/*/test.parquet"))]
    return {name: [row[name] for row in rows] for name in PRIMARY}


def _by_libraries(file: Path) -> dict[str, float]:
    """Return the primary metrics of one file; what no library has is written in torch."""
    import torch
    import torch_uncertainty.metrics as tu
    import torchmetrics.functional.classification as tm
    from sklearn.metrics import brier_score_loss, log_loss

    stored = pq.read_table(file, columns=["member", "label", "logits"])
    classes = stored.schema.field("logits").type.list_size
    flat = stored["logits"].combine_chunks().flatten().to_numpy()
    members = stored["member"][-1].as_py() + 1
    logits = torch.tensor(flat).reshape(members, -1, classes).double()
    y = torch.tensor(stored["label"].to_numpy()[: logits.shape[1]].astype(np.int64))
    logp_MNC = torch.log_softmax(logits, -1)
    p_NMC = logp_MNC.exp().transpose(0, 1)
    q_NC = p_NMC.mean(1)
    nll = log_loss(y, q_NC, labels=range(classes))
    own = torch.nn.functional.nll_loss(logp_MNC.flatten(0, 1), y.repeat(members)).item()
    disagreement, information, entropy = tu.Disagreement(), tu.MutualInformation(), tu.Entropy()
    disagreement.update(p_NMC)
    information.update(p_NMC)
    entropy.update(q_NC)
    return {
        "nll": nll,
        "cll": _calibrated(q_NC.log(), y),
        "brier": brier_score_loss(y, q_NC, labels=range(classes), scale_by_half=False),
        "ece": float(tm.multiclass_calibration_error(q_NC, y, classes, n_bins=15, norm="l1")),
        "accuracy": float(tm.multiclass_accuracy(q_NC, y, classes, average="micro")),
        "gain": own - nll,
        "member_nll": own,
        "predictive_entropy": float(entropy.compute()),
        "mutual_information": float(information.compute()),
        "disagreement": float(disagreement.compute()),
    }


def _calibrated(logq_NC: Any, y_N: Any) -> float:
    """Return the calibrated NLL: L-BFGS on log T, and one step of Halley without each example.

    No library leaves one out. The others' slope is expanded to second order in 1/T.
    """
    import torch
    from torch.nn.functional import cross_entropy

    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [log_t],
        line_search_fn="strong_wolfe",
        max_iter=50,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
    )

    def loss() -> Any:
        search.zero_grad()
        found = cross_entropy(logq_NC / log_t.exp(), y_N)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    search.step(loss)  # type: ignore[no-untyped-call]
    beta = 1 / log_t.detach().exp()
    p_NC = torch.softmax(beta * logq_NC, -1)
    mean_N1 = (p_NC * logq_NC).sum(-1, keepdim=True)
    slope_N = (mean_N1 - logq_NC.gather(1, y_N[:, None]))[:, 0]
    second_N, third_N = ((p_NC * (logq_NC - mean_N1) ** k).sum(-1) for k in (2, 3))
    curvature_N = second_N.sum() - second_N
    step_N = slope_N / curvature_N
    beta_N = beta + step_N - step_N**2 * (third_N.sum() - third_N) / (2 * curvature_N)
    return float(cross_entropy(beta_N[:, None] * logq_NC, y_N))


# --- measuring


def cost_of(side: str, folder: Path, workers: int = 1) -> Cost:
    """Run one side in a process and return what it took."""
    command = [sys.executable, "-m", "benchmarks.analysis_scale", "--side", side]
    command += ["--folder", str(folder), "--workers", str(workers)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{side} ended with {process.returncode}")
    told = json.loads(text)
    wall = time.perf_counter() - start
    cpu = used.ru_utime + used.ru_stime
    return Cost(cpu, wall, told["work"], told["peak"], told["values"])


def _side(side: str, folder: Path, workers: int) -> None:
    """Do one side's work and print its CPU seconds (imports aside) and values."""
    if side != "theirs":
        import analysis.measures.measure  # noqa: F401
    else:
        import sklearn.metrics  # noqa: F401
        import torch_uncertainty.metrics  # noqa: F401
        import torchmetrics.functional.classification  # noqa: F401
    start = os.times()
    sides = {"ours": lambda: ours(folder, workers), "primary": lambda: primary(folder)}
    values = sides.get(side, lambda: theirs(folder))()
    done = os.times()
    work = sum(done[:4]) - sum(start[:4])
    print(json.dumps({"work": work, "peak": _peak_mib(), "values": values}))


def _peak_mib() -> float:
    """Return the peak RSS of this process, or of a worker's if that is more.

    From the high-water mark, which begins at the start of the program; ``ru_maxrss`` would hold
    what the parent had when it forked.
    """
    (own,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own.split()[1]), workers) / 1024


def differences(a: Cost, b: Cost) -> dict[str, float]:
    """Return the greatest difference of each primary metric over the trials."""
    return {
        name: float(np.abs(np.subtract(a.values[name], b.values[name])).max()) for name in PRIMARY
    }


def compare(folder: Path, workers: int) -> str:
    """Return a table of both sides on one run."""
    kept = folder / "features"
    shutil.rmtree(kept, ignore_errors=True)
    first = cost_of("ours", folder)
    again = cost_of("ours", folder)
    shutil.rmtree(kept)
    parallel = cost_of("ours", folder, workers)
    peers = cost_of("theirs", folder)
    rows = {
        "analysis, 1 process": first,
        f"analysis, {workers} workers": parallel,
        "analysis, kept features": again,
        "analysis.metrics, primary metrics alone": cost_of("primary", folder),
        "libraries, primary metrics alone": peers,
    }
    lines = ["| | CPU s | of the libraries | without imports | of the libraries | wall s | MiB |"]
    lines += ["| --- " * 7 + "|"]
    for name, cost in rows.items():
        lines.append(
            f"| {name} | {cost.cpu:.1f} | {cost.cpu / peers.cpu:.2f} | {cost.work:.1f} "
            f"| {cost.work / peers.work:.2f} | {cost.wall:.1f} | {cost.peak_mib:.0f} |"
        )
    apart = ", ".join(f"{name} {most:.0e}" for name, most in differences(first, peers).items())
    return "\n".join([*lines, "", f"Greatest differences: {apart}."])


def linearity(folder: Path) -> str:
    """Return how CPU seconds grow from 100 to 1,000 trials of 4 members and 1,000 examples."""
    costs = {}
    for trials in (100, 1000):
        here = folder / str(trials)
        write_run(here, trials, 4, 1000)
        costs[trials] = cost_of("ours", here)
    small, large = costs[100], costs[1000]
    return (
        f"1,000 trials of 4 x 1,000 x 10: {large.work:.1f} s CPU, {large.work / small.work:.1f} "
        f"times those of 100 ({large.peak_mib:.0f} and {small.peak_mib:.0f} MiB)."
    )


def main() -> None:
    """Write, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "primary", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        _side(given.side, given.folder, given.workers)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        write_run(folder, given.trials, given.members, given.examples)
        print(f"{given.trials} x {given.members} x {given.examples} x 10 logits\n")
        print(compare(folder, given.workers), flush=True)
        print("\n" + linearity(Path(scratch)))


if __name__ == "__main__":
    main()

"""What the time of a training step is spent on, ours and the peers'.

``python -m benchmarks.step_profile`` takes every side of some rows of
:mod:`benchmarks.training` and prints the median time of a step and, from a profile of further
steps, the time by kind of operation, in milliseconds. The profile includes the profiler's overhead
for each operation but no Python between them, so that its columns do not add up to the step.
"""

import argparse
import timeit
import warnings
from collections import Counter
from statistics import median
from typing import Final

import torch
from torch.autograd.profiler import profile

from benchmarks.training import ROWS, Act, Ratio, Setting, stacked
from study.cluster.worker import keep_freed_memory

PROFILED: Final = (*ROWS[:3], lambda setting: stacked(32, setting))
"""Rows of small networks, where not all is convolution."""
KINDS: Final = {
    "products": (
        *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
        *("convolution", "_FirstProduct"),
    ),
    "norms, loss": ("batch_norm", "log_softmax", "nll_loss", "cross_entropy"),
    "element-wise": (
        *("aten::sum", "aten::mean", "aten::mul", "aten::add", "aten::sub", "aten::div"),
        *("aten::relu", "aten::clamp", "threshold", "aten::copy_", "aten::cat", "aten::fill_"),
        *("max_pool", "aten::where"),
    ),
}
"""Parts of the names of operations, looked for in this order."""
OTHER: Final = "other"
"""The optimiser, views, autograd's bookkeeping and dispatch."""


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name."""
    for kind, parts in KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return OTHER


class Profile(Setting):
    """Profiles the sides of a row instead of comparing their times."""

    def compare(self, what: str, ours: Act, peers: dict[str, Act]) -> list[Ratio]:
        """Print a line for each side."""
        for side, act in {"ours": ours, **peers}.items():
            for _ in range(5):
                act()
            step = 1e3 * median(timeit.repeat(act, number=1, repeat=self.rounds))
            with profile(use_kineto=False) as found:
                for _ in range(self.rounds):
                    act()
            spent: Counter[str] = Counter()
            for event in found.key_averages():
                spent[kind_of(event.key)] += event.self_cpu_time_total / 1e3 / self.rounds
            cells = (step, *(spent[kind] for kind in (*KINDS, OTHER)))
            print(f"| {what} | {side} | {' | '.join(f'{ms:.2f}' for ms in cells)} |", flush=True)
        return []


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="steps of each side (default 30)")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Those of the peers are their own.
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"| what | side | step | {' | '.join((*KINDS, OTHER))} |")
    print("|" + " --- |" * (len(KINDS) + 4))
    for row in PROFILED:
        row(Profile(arguments.rounds, torch.device("cpu")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

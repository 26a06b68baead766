"""The machines that trials run on, which come and go: what fits on them.

Every node of a cluster is looked at (see ``study.cluster.preflight``) before the first trial, or
when it joins.
"""

import contextlib
import json
import math
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.cluster.gpu_share import gpu_memory, share
from study.cluster.preflight import (
    NodeQuery,
    NodeReport,
    code,
    gpu_problem,
    inspect_node,
    look_for_gpu,
    problems,
    weights_of,
)
from study.cluster.ray_start import start_ray
from study.cluster.runtime import Runtime, is_dashboard
from study.datasets import Dataset
from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.trials.new_row import versions

LAUNCHER: Final = Path("~/ray_bootstrap_config.yaml").expanduser()
LOOK_EVERY: Final = 5.0
"""Seconds between looks at which nodes there are."""
ANSWER: Final = 180.0
"""Seconds in which a node must answer; its first worker loads all packages."""
NOTICE_LOSS: Final = 60.0
"""Seconds in which Ray notices that a node was lost; that its worker was, it may notice before."""
SETTLE: Final = 30.0
"""Seconds after the start of a cluster in which its first nodes join."""
START: Final = 1800.0
"""Seconds in which a node that is started when it is asked for must be there."""


def fitting(free: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many trials fit on one node, or on a cluster's resources together."""
    fit = math.floor(free.get("CPU", 0) / cpus + 1e-9)
    if gpus:
        whole = free.get("GPU", 0)
        # A trial of less than a GPU cannot have parts of two.
        each = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
        fit = min(fit, math.floor(whole * each + 1e-9))
    return fit


def coming(launcher: Path, cpus: float, gpus: float) -> int:
    """Return how many trials fit on what a cluster may grow to; 0 where it does not.

    Args:
        launcher: Where ``ray up`` leaves, on the head, what it made of the cluster's YAML.
        cpus: Of a trial.
        gpus: Of a trial.
    """
    try:
        config = yaml.safe_load(launcher.read_text(encoding="utf-8"))
        kinds = config.get("available_node_types", {}).values()
        most = config.get("max_workers", 0)
    except (OSError, yaml.YAMLError, AttributeError):
        return 0
    each = [(fitting(k.get("resources", {}), cpus, gpus), k.get("max_workers", 0)) for k in kinds]
    total = 0
    for fit, most_of_it in sorted(each, reverse=True):
        count = min(most_of_it, most)
        total, most = total + fit * count, most - count
    return int(total)


class Nodes:
    """The nodes of the runtime that this process has joined.

    Args:
        study: What is to be run.
        store: Where it lies.
        joined: Whether the runtime is a cluster, and not this process' own.

    Attributes:
        gpus: Share of a GPU that a trial takes.
        slots: How many trials fit at once, on the nodes that are there or that may be started.
        present: How many fit on those that are there.
        grows: Whether nodes are started when there is work and ended when there is none.
        alive: Nodes that were there at the last look.
        workers: The node of each worker that was asked for.
    """

    def __init__(self, study: Study, store: RunFolder, joined: bool) -> None:
        self.study, self.store, self.joined = study, store, joined
        self.cpus = study.resources.cpus_per_trial
        self.gpus = _gpus(study)
        self.checked = joined
        self.here: NodeReport = {"versions": json.loads(versions()), "code": code()}
        self.known: set[str] = set()
        self.looking: dict[Any, tuple[str, str, float]] = {}
        self.looked_at = -math.inf
        self.slots = self.present = 0
        self.grows = False
        self.alive: set[str] = set()
        self.workers: dict[str, str] = {}
        self.asked = NodeQuery(str(store.root), f".mark-{uuid.uuid4().hex}", weights_of(study))

    def _count(self) -> None:
        alive = _alive()
        self.alive = set(alive)
        fit = sum(fitting(node["Resources"], self.cpus, self.gpus) for node in alive.values())
        self.present = fit
        most = coming(LAUNCHER, self.cpus, self.gpus) if self.joined else 0
        self.grows = most > 0 or (self.joined and self.study.resources.concurrency is not None)
        fit = max(fit, most)
        self.slots = min(fit, self.study.resources.concurrency or fit)

    def require(self, unchecked: bool = False) -> None:
        """Wait for a node on which a trial fits, and look at all nodes, unless ``unchecked``.

        Raises:
            StudyError: With the last line; the others are printed.
        """
        self.require_fit()
        if not self.joined:
            if self.gpus and not unchecked:
                _require_gpu_here()
            return
        self._await_fit()
        self.checked = not unchecked
        if unchecked:
            return
        for old in self.store.root.glob(".mark-*"):
            old.unlink(missing_ok=True)
        (self.store.root / self.asked.mark).write_text("")
        lines = self._answers(wait=True)
        for line in lines[:-1]:
            print(f"error: {line}", file=sys.stderr)
        if lines:
            self.forget()
            raise StudyError(lines[-1])
        self._count()
        nodes = len(self.known)
        print(f"{nodes} node{'s' if nodes > 1 else ''} checked, {self.slots} slots")

    def require_fit(self) -> None:
        """Require a node on which a trial fits, unless one may come by itself.

        Raises:
            StudyError: When there is none.
        """
        comes = self.joined and self.study.resources.concurrency is not None
        end = time.monotonic() + (SETTLE if self.joined and not comes else 0)
        self._count()
        while self.slots < 1 and time.monotonic() < end:
            time.sleep(1)
            self._count()
        if self.slots < 1 and not comes:
            have = ray.cluster_resources()
            raise StudyError(_too_large(self.cpus, self.gpus, have))

    def _await_fit(self) -> None:
        """Have a node started if a trial fits on none that is there."""
        if any(fitting(n["Resources"], self.cpus, self.gpus) for n in _alive().values()):
            return
        print(f"waiting for a node with {self.cpus:g} CPUs and {self.gpus:g} GPUs to start")
        anything = ray.remote(lambda: None)
        first = anything.options(num_cpus=self.cpus, num_gpus=self.gpus).remote()
        if not ray.wait([first], timeout=START)[0]:
            ray.cancel(first, force=True)
            raise StudyError(
                f"no node with {self.cpus:g} CPUs and {self.gpus:g} GPUs started in "
                f"{START / 60:.0f} minutes; see quota and prices of the cloud, and "
                "ray monitor clusters/gpu.yaml"
            )

    def node_of(self, actor: Any) -> str | None:
        """Return the node that a worker runs on; None where there is but this machine."""
        if not self.joined:
            return None
        name = actor._actor_id.hex()
        if name not in self.workers:
            self.workers[name] = ray._private.state.actors(name)["Address"]["NodeID"]
        return self.workers[name]

    def renew(self) -> list[str]:
        """Look at nodes that have joined, without waiting; return what is wrong with them."""
        if not self.joined or time.monotonic() - self.looked_at < LOOK_EVERY:
            return []
        self.looked_at = time.monotonic()
        self._count()
        return self._answers(wait=False) if self.checked else []

    def _answers(self, wait: bool) -> list[str]:
        for node, info in _alive().items():
            if node not in self.known:
                self.known.add(node)
                gpu = bool(self.gpus and info["Resources"].get("GPU", 0))
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                # Of no CPU, since a node must answer also while trials have all of them.
                question = (
                    ray.remote(inspect_node)
                    .options(scheduling_strategy=there, num_cpus=0)
                    .remote(self.asked, gpu)
                )
                name = f"{info['NodeManagerHostname']} ({info['NodeManagerAddress']})"
                self.looking[question] = node, name, time.time()
        open_ = list(self.looking)
        if not open_:
            return []
        done, silent = ray.wait(open_, num_returns=len(open_), timeout=ANSWER if wait else 0)
        lines = []
        for question in done:
            node, name, began = self.looking.pop(question)
            lines += self._judged(question, node, name, began)
        for question in silent if wait else ():
            _, name, _ = self.looking.pop(question)
            lines.append(
                f"node {name}: must answer, but did not in {ANSWER:.0f} s; see ray status, and the "
                "logs in Ray's folder there"
            )
        return lines

    def _judged(self, question: Any, node: str, name: str, began: float) -> list[str]:
        try:
            there = ray.get(question)
        except ray.exceptions.RayError as error:
            if node not in _alive():
                return []  # It has gone again.
            why = " ".join(str(error).split())[-200:]
            return [
                f"node {name}: must be able to run this project, but could not ({why}); install it "
                "there as clusters/local.yaml does"
            ]
        if there["out"] is None:
            there["out"] = self._heard(node)
        times = {"began": began, "ended": time.time()}
        return problems(name, self.here | times, there, self.asked)

    def _heard(self, node: str) -> str | None:
        mark = self.store.root / f"{self.asked.mark}-{node}"
        if not mark.exists():
            return "is another folder"
        mark.unlink(missing_ok=True)
        return None

    def forget(self) -> None:
        """Remove the mark."""
        with contextlib.suppress(OSError):
            (self.store.root / self.asked.mark).unlink(missing_ok=True)

    def pack(self, data: Dataset) -> None:
        """Measure how much of a GPU a trial takes, if that is asked for, on a GPU of its own.

        Raises:
            StudyError: When a trial does not fit.
        """
        if self.study.resources.gpus_per_trial != "auto":
            return
        measure = ray.remote(gpu_memory).options(num_cpus=self.cpus, num_gpus=1)
        measured = measure.remote(self.study, data)
        if not ray.wait([measured], timeout=START)[0]:
            raise StudyError(
                f"resources.gpus_per_trial=auto: must have a GPU to measure on, but none was "
                f"free in {START / 60:.0f} minutes; wait for other studies, or give a number"
            )
        try:
            need, total = ray.get(measured)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            why = " ".join(str(cause or error).split())[-200:]
            raise StudyError(
                f"resources.gpus_per_trial=auto: a trial must fit on a GPU, but measuring ended "
                f"with {why}; lower training.batch_size, or give a number"
            ) from None
        self.gpus = share(need, total)
        self._count()
        print(
            f"a trial takes {need / 1e9:.2f} of {total / 1e9:.1f} GB, so that {1 / self.gpus:g} go "
            f"on a GPU: {self.slots} slots with {self.cpus:g} CPUs each"
        )


def refuse_too_large(study: Study, store: RunFolder, runtime: Runtime) -> None:
    """Refuse trials that fit on no machine of the run, as the run would; nothing is written.

    Of a cluster elsewhere, to which jobs are sent, nothing is known here. Without one, Ray is only
    started to count what is here where a trial asks for more than any machine has.

    Raises:
        StudyError: When that is so, or the cluster cannot be joined.
    """
    joined, gpus = runtime.address is not None, _gpus(study)
    fits_anywhere = not joined and not gpus and study.resources.cpus_per_trial <= 1
    if fits_anywhere or is_dashboard(runtime.address):
        return
    start_ray(runtime.address, runtime.verbose)
    try:
        Nodes(study, store, joined).require_fit()
    finally:
        ray.shutdown()
    if gpus and not joined and not runtime.unchecked:
        _require_gpu_here()


def _require_gpu_here() -> None:
    """Refuse a GPU that torch does not see: it would train on the CPU without a word."""
    if problem := gpu_problem(look_for_gpu()):
        raise StudyError(f"this machine: {problem}")


def _gpus(study: Study) -> float:
    """Return the share of a GPU that a trial takes, a whole one until it is measured."""
    asked = study.resources.gpus_per_trial
    return 1.0 if asked == "auto" else float(asked)


def _too_large(cpus: float, gpus: float, have: Mapping[str, float]) -> str:
    return (
        f"resources: a trial needs {cpus:g} CPUs and {gpus:g} GPUs of one node, but no node has "
        f"them (all together {have.get('CPU', 0):g} and {have.get('GPU', 0):g}); lower "
        "resources.*_per_trial, add nodes, name the cluster that has them by --address, or set "
        "resources.concurrency where nodes come by themselves"
    )


def _alive() -> dict[str, Any]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}

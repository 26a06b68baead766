"""What a node of a cluster must be like: a look at it, and a line on each thing that is wrong."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from study.run_folder.store import RunFolder
from study.space.settings import Study
from study.trials.new_row import versions

NodeReport = dict[str, Any]

PACKAGE: Final = Path(__file__).parents[1]
SKEW: Final = 60.0
"""Seconds by which clocks may differ: they tell what came before what."""
ROOM: Final = 5e8
"""Bytes that must be free for Ray's own files on a node."""
DRIVER: Final = Path("/proc/driver/nvidia/version")
"""Where Linux tells of NVIDIA's driver, in containers too."""
LEAST_DRIVER: Final = {12: 525, 13: 580}
"""The oldest driver that runs torch built for a CUDA of this major version: "Minor Version
Compatibility" in https://docs.nvidia.com/deploy/cuda-compatibility."""
LOOK: Final = "import torch; print(torch.version.cuda, torch.cuda.is_available())"


@dataclass(frozen=True)
class SeenGpu:
    """What there is of a GPU on a node.

    Attributes:
        seen: Whether torch sees one.
        cuda: For which CUDA its torch is built, as ``13.0``; None for none.
        driver: NVIDIA's driver, as ``580.65.06``; None where there is none.
    """

    seen: bool
    cuda: str | None
    driver: str | None


@dataclass(frozen=True)
class NodeQuery:
    """What a node is asked about.

    Attributes:
        out: Address of the run.
        mark: Name of what the driver wrote there.
        weights: Files that trials read.
    """

    out: str
    mark: str
    weights: tuple[str, ...] = ()


def inspect_node(asked: NodeQuery, gpu: bool) -> NodeReport:
    """Return what a node, on which this runs, is like."""
    return {
        "clock": time.time(),
        "versions": json.loads(versions()),
        "code": code(),
        "free": shutil.disk_usage(_temporary()).free,
        "gpu": look_for_gpu() if gpu else None,
        "weights": [path for path in asked.weights if not Path(path).is_file()],
        "out": _marked(RunFolder(asked.out), asked.mark),
    }


def look_for_gpu() -> SeenGpu:
    """Return what there is of a GPU here; all may be taken, so none is asked for."""
    variables = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-W", "ignore", "-c", LOOK]
    ended = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    cuda, seen = (ended.stdout.split() or ["None", "False"])[-2:]
    return SeenGpu(seen == "True", None if cuda == "None" else cuda, driver_version())


def driver_version(file: Path = DRIVER) -> str | None:
    """Return the version of NVIDIA's driver, as ``580.65.06``; None where there is none."""
    try:
        found = re.search(r"\b\d+(\.\d+)+\b", file.read_text())
    except OSError:
        return None
    return found and found[0]


def gpu_problem(gpu: SeenGpu) -> str | None:
    """Return what must be mended for torch to use a GPU where Ray counts one, or None."""
    if gpu.cuda is None:
        return "torch must be built for CUDA, but is not; install the build that has it"
    least = LEAST_DRIVER.get(int(gpu.cuda.partition(".")[0]))
    if least is not None and gpu.driver is not None and int(gpu.driver.partition(".")[0]) < least:
        return (
            f"NVIDIA's driver must be {least} or newer for torch with CUDA {gpu.cuda}, but is "
            f"{gpu.driver}; update it, or choose an image that has it"
        )
    if not gpu.seen:
        return (
            "Ray counts a GPU there, but torch sees none; install its driver"
            f"{f', {least} or newer' if least else ''}, or start Ray there with --num-gpus=0"
        )
    return None


def _temporary() -> str:
    """Return the folder that Ray writes to."""
    node = ray._private.worker._global_node
    return tempfile.gettempdir() if node is None else str(node.get_session_dir_path())


def _marked(store: RunFolder, mark: str) -> str | None:
    """Answer the driver's mark with one of this node; say why if that cannot be done."""
    try:
        if not (store.root / mark).exists():
            return "is another folder"
        (store.root / f"{mark}-{ray.get_runtime_context().get_node_id()}").write_text("")
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None


def code(package: Path = PACKAGE) -> str:
    """Return a digest of a package's code, of every folder in it; by default of ``study``."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def problems(name: str, here: NodeReport, there: NodeReport, asked: NodeQuery) -> list[str]:
    """Return a line on each thing that is wrong with a node.

    Args:
        name: Of the node.
        here: What the driver found where it runs, with ``began`` and ``ended`` of the question.
        there: What the node found.
        asked: What it was asked about.
    """
    lines = []
    own, other = here["versions"], there["versions"]
    wrong = [f"{p} {other.get(p)} instead of {v}" for p, v in own.items() if other.get(p) != v]
    if wrong:
        lines.append(
            f"node {name}: packages must be those of the driver, but it has {', '.join(wrong)}; "
            "install from clusters/constraints.txt on every node"
        )
    if there["code"] != here["code"]:
        lines.append(
            f"node {name}: this project's code must be that of the driver ({here['code']}), but is "
            f"{there['code']}; copy it to every node (ray up does) and start Ray there again"
        )
    if there["out"] is not None and "://" in asked.out:
        lines.append(
            f"--out {asked.out}: must be written from every node, but on node {name} it "
            f"{there['out']}; give that node credentials and a way to the store"
        )
    elif there["out"] is not None:
        lines.append(
            f"--out {asked.out}: must be the same place on every node, but on node {name} it "
            f"{there['out']}; give s3://BUCKET/NAME (or gs://), or a folder that all nodes share"
        )
    if there["gpu"] is not None and (problem := gpu_problem(there["gpu"])):
        lines.append(f"node {name}: {problem}")
    if there["weights"]:
        lines.append(
            f"node {name}: must have {', '.join(there['weights'])}, which backbone.weights names; "
            "put it there under the same path"
        )
    if there["free"] < ROOM:
        lines.append(
            f"node {name}: {ROOM / 1e6:.0f} MB must be free for Ray's files, but "
            f"{there['free'] / 1e6:.0f} are; free some, or start Ray with another --temp-dir"
        )
    late, early = there["clock"] - here["ended"], here["began"] - there["clock"]
    if max(late, early) > SKEW:
        lines.append(
            f"node {name}: clocks must agree within {SKEW:.0f} s, but its is "
            f"{max(late, early):.0f} s {'ahead' if late > early else 'behind'}; set it by NTP"
        )
    return lines


def weights_of(study: Study) -> tuple[str, ...]:
    """Return every file of weights that a space names."""
    every = (w for space in study.spaces for w in space.values_of("backbone.weights"))
    return tuple(sorted({weights for weights in every if isinstance(weights, str)}))

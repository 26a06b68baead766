"""The Ray runtime that this process starts or joins, and what it says when that cannot be."""

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Final

import ray
from ray._private.node import Node

from study.cluster.runtime import QUIET
from study.errors import StudyError, end_process

JOIN: Final = 45.0
"""Seconds in which a cluster must let this process join."""
SOCKET: Final = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray adds to its folder, with the largest number of a process."""
SOCKET_BYTES: Final = 107
"""Of the path of a socket, on Linux."""
OURS: Final = (*QUIET, "RAY_AUTH_TOKEN")
"""Variables of Ray's that are set here."""
LOOK_EVERY, GRACE = 2.0, 10.0
"""Seconds between looks at Ray's processes, and for Ray to notice by itself that one has died."""
SHUTDOWN: Final = 15.0
"""Seconds in which a process that was told to end does so; SLURM kills it after 30."""

KEPT: Final = "nothing that was finished is lost"
TERMINATED: Final = threading.Event()
"""Set once this process was told to end, by SIGTERM as schedulers of clusters do."""


def start_ray(address: str | None, verbose: bool) -> None:
    """Start or join a Ray runtime, silently unless ``verbose``.

    Even a local one listens to the network. Ray lets in only who knows the token, which it would
    keep in the user's home; a local runtime has one of its own.
    """
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if not verbose:
        for name in ("ray", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if address is not None:
        _reach(address)
    folder = None if address else _short_folder()
    try:
        with _joining(address, verbose) if address else _sigterm_blocked():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.CRITICAL,
                _temp_dir=folder,
            )
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if address is not None:
            raise StudyError(_not_joined(address, why)) from (error if verbose else None)
        own = sorted(name for name in os.environ if name.startswith("RAY_") and name not in OURS)
        remedy = "give the same command again (-v shows more)"
        if isinstance(error, OSError):
            remedy = "fix that, or name another folder in RAY_TMPDIR"
        elif own:
            remedy = f"try without {', '.join(own)} in the environment (-v shows more)"
        if isinstance(error, UnicodeError):
            remedy = "a path has letters that the locale lacks: set PYTHONUTF8=1"
        raise StudyError(f"Ray could not be started ({why}); {remedy}") from (
            error if verbose else None
        )
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        # A trial's row says why its worker died; Ray would print where its own logs may say so.
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    if address is not None:
        _take_sigterm()


def _terminate(number: int, frame: FrameType | None) -> None:
    if TERMINATED.is_set():
        return  # A second one would interrupt the orderly end.
    TERMINATED.set()
    raise KeyboardInterrupt


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Start Ray's processes with SIGTERM blocked, as Ray starts them with SIGINT blocked.

    systemd, and SLURM on request, send it to all processes of a study at once. Where Ray's ended by
    it, Ray ended this process too, at any moment and without a word. One that comes meanwhile is
    taken when Ray has been started. Workers take it again once they have a trial. Where Ray's
    processes are not bound to this one by the kernel, as on macOS, SIGTERM is what ends them.
    """
    blocked = {signal.SIGTERM} if sys.platform == "linux" else set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        if (node := ray._private.worker._global_node) is not None:
            node.kill_all_processes = partial(_kill_all, node)
        _take_sigterm()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_all(
    node: Node, check_alive: bool = False, allow_graceful: bool = False, wait: bool = False
) -> None:
    """Kill the processes of a local Ray at once.

    Gracefully would be with SIGTERM, which they do not take, and a wait of a second for each. What
    the raylet started would outlive it: workers for a second, its agents for a minute.
    """
    import psutil  # Comes with Ray, which makes it importable.

    raylets = [started.process.pid for started in node.all_processes.get("raylet", ())]
    left = []
    for pid in raylets:
        with suppress(psutil.Error):
            left += psutil.Process(pid).children(recursive=True)
    Node.kill_all_processes(node, check_alive=check_alive, wait=wait)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


def _take_sigterm() -> None:
    """Take SIGTERM, with which schedulers end jobs, as an interrupt: Ray prints a trace."""
    if threading.current_thread() is threading.main_thread():
        TERMINATED.clear()
        signal.signal(signal.SIGTERM, _terminate)


def _short_folder() -> str:
    """Return where the paths of Ray's sockets are short enough: its own choice, or below /tmp."""
    own = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return f"{own if len(os.fsencode(own + SOCKET)) <= SOCKET_BYTES else '/tmp'}/ray"


def _reach(address: str) -> None:
    """Refuse an address at which no machine answers: Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise StudyError(
            f"--address {address}: a cluster must answer there, but {error.strerror or error}; "
            "start it (ray up clusters/gpu.yaml), or fix the address"
        ) from None


@contextmanager
def _joining(address: str, verbose: bool) -> Iterator[None]:
    """End the process when a cluster takes connections, but does not let it join.

    Unless ``verbose``, nothing is written to stderr meanwhile: no logger holds back the line that
    Ray has on each of its attempts.
    """
    refused = (
        f"--address {address}: the cluster did not let this machine join in {JOIN:.0f} s; give the "
        "command on its head (ray exec clusters/gpu.yaml '...'), or with --address http://HEAD:8265"
    )
    stderr = os.dup(2)

    def end() -> None:
        os.dup2(stderr, 2)
        end_process(refused)

    timer = threading.Timer(JOIN, end)
    timer.daemon = True
    timer.start()
    try:
        if not verbose:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        timer.cancel()
        os.dup2(stderr, 2)
        os.close(stderr)


def _not_joined(address: str, why: str) -> str:
    """Say in one line why a cluster could not be joined, and what to do."""
    remedy = (
        "put the cluster's token into ~/.ray/auth_token here, and give the command on one of its "
        "nodes, or with --address http://HEAD:8265"
    )
    if "ersion mismatch" in why:
        remedy = "use the cluster's versions of Ray and Python (clusters/constraints.txt)"
    elif address == "auto" and "ConnectionError" in why:
        remedy = "start a cluster first (ray up clusters/gpu.yaml)"
    return f"--address {address}: the cluster must let this process join, but {why}; {remedy}"


@contextmanager
def ending_with_ray(run: str, close: Callable[[], None]) -> Iterator[None]:
    """End this process when one that Ray started here dies: Ray itself would wait for ever.

    Also ends it after a SIGTERM, if that takes longer than ``SHUTDOWN``: where a scheduler ends a
    cluster's processes with this one, ``ray.shutdown`` hangs.

    Args:
        run: What the line begins with.
        close: Called before it.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_EVERY):
            if TERMINATED.is_set():
                if not done.wait(SHUTDOWN):
                    close()
                    print(f"\nstopped; {KEPT}; to go on, give the same command again", flush=True)
                    os._exit(130)
                return
            node = ray._private.worker.global_worker.node  # None once Ray is being shut down.
            dead = node.dead_processes() if node is not None else []
            if dead and not done.wait(GRACE) and not TERMINATED.is_set():
                close()
                names = ", ".join(sorted({kind for kind, _ in dead}))
                end_process(f"{run}: Ray's {names} died; give the same command again: {KEPT}")

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()

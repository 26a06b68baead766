"""Who is at work at an address of an object store, which knows no locks: a lease.

The lease is an object that names its holder and is written again every ``RENEW`` seconds. A run
that dies stops writing, and ``LAPSE`` seconds later, by the store's own clock, another may take it
over; the holder gives up before. Of two that begin at once the one that wrote last has it.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from study.errors import StudyError, end_process
from study.run_folder.paths import ObjectPath

RENEW, LAPSE, SETTLE, LOOK_EVERY = 15.0, 60.0, 2.0, 2.0
"""Seconds: between renewals, after which it is void, to see who wrote last, and between looks."""

AGAIN: Final = "give the same command again: nothing that was finished is lost"


class Holder(NamedTuple):
    """Who has a lease: a process on a machine (see ``_here``), and when that was last written."""

    id: str
    host: str
    pid: int
    on: str | None
    written: float = 0.0


@contextmanager
def held(at: ObjectPath, lost: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lease at a place while the block runs.

    Args:
        at: Of the lease.
        lost: Called with a line when it is lost; by default that is printed and the process ends.

    Raises:
        StudyError: When another run is at work there.
    """
    at = at.within(RENEW)
    me = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _here())
    _await_end(at)
    looked = time.monotonic()
    at.write_text(json.dumps(me._asdict()))
    # Who took it meanwhile, since the write was slow, must have had the time to see that.
    quick = time.monotonic() - looked < SETTLE / 2
    time.sleep(SETTLE if quick else 2 * RENEW)
    # Of several that saw it free, all but the last writer find another name here.
    if (other := _holder(at)) is None or other.id != me.id:
        raise _taken(at, other)
    done = threading.Event()
    renewed = [time.monotonic()]

    def end(line: str) -> None:
        if not done.is_set():
            done.set()
            (lost or end_process)(line)

    def renew() -> None:
        while not done.wait(RENEW):
            began = time.monotonic()
            with suppress(OSError):
                now = _holder(at)
                if now is not None and now.id != me.id:
                    end(str(_taken(at, now)))
                elif not done.is_set():
                    at.write_text(json.dumps(me._asdict()))
                    renewed[0] = began

    def watch() -> None:  # A request may block: who asks nothing must know when it is too late.
        while not done.wait(min(1.0, RENEW)):
            if time.monotonic() - renewed[0] > LAPSE - RENEW:
                end(f"{at.parent}: the store has not answered for {LAPSE - RENEW:.0f} s; {AGAIN}")

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        renewing.join(timeout=RENEW)
        with suppress(OSError):
            if (last := _holder(at)) is not None and last.id == me.id:
                at.unlink(missing_ok=True)


def _await_end(at: ObjectPath) -> None:
    """Return when the lease is free: given back, its process gone, or not renewed for ``LAPSE``."""
    first = _holder(at)
    if first is None or _is_gone(first):
        return
    probe = at.parent / f".now-{uuid.uuid4().hex}"
    probe.write_text("")
    left = LAPSE - (probe.stat().st_mtime - first.written)
    probe.unlink(missing_ok=True)
    if left > 0:
        print(f"{at.parent}: {_named(first)} was at work there; waiting {left:.0f} s for its end")
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY)
        now = _holder(at)
        if now is None:
            return
        if now != first:
            raise _taken(at, now)


def _holder(at: ObjectPath) -> Holder | None:
    """Return what the lease says and when it was written; None if there is no readable lease."""
    try:
        said = json.loads(at.read_text(encoding="utf-8"))
        return Holder(said["id"], said["host"], said["pid"], said["on"], at.stat().st_mtime)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_gone(holder: Holder) -> bool:
    """Tell whether the holder was a process of this machine that has ended."""
    here = _here()
    if here is None or holder.on != here or type(holder.pid) is not int or holder.pid < 1:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _here() -> str | None:
    """Return what identifies this machine since its start, and its processes; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _named(holder: Holder) -> str:
    return f"another run (process {holder.pid} on {holder.host})"


def _taken(at: ObjectPath, holder: Holder | None) -> StudyError:
    who = "another run" if holder is None else _named(holder)
    return StudyError(
        f"--out {at.parent}: {who} is at work there; wait for it to end, or choose another --out"
    )

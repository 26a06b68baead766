"""Trials that take too long or crash: where their process was is written down."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from study.run_folder.paths import AnyPath, ObjectPath, stand_in

LAST_WORD: Final = 60.0
"""Seconds after which a worker that cannot say where it hangs is ended all the same."""


@contextmanager
def time_limit(file: AnyPath, seconds: float) -> Iterator[None]:
    """End the process when the block takes longer, and write to ``file`` where it was.

    A crash, as of a library in C, is written there as well. Where that is in an object store, what
    a crash, or a process that is stuck outside Python, says is left in the object's ``stand_in``.
    """
    file.unlink(missing_ok=True)  # What it says is of an attempt before.
    if isinstance(file, ObjectPath):
        with stand_in(file).open("w+") as own:
            last_word = threading.Timer(seconds, _leave_word, (file, own))
            last_word.daemon = True
            last_word.start()
            try:
                with _ending(own, seconds + LAST_WORD):
                    yield
            finally:
                last_word.cancel()
                stand_in(file).unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("w") as stream, _ending(stream, seconds):
            yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _ending(stream: IO[str], seconds: float) -> Iterator[None]:
    # Of C, so that it works where Python itself is stuck.
    faulthandler.dump_traceback_later(seconds, exit=True, file=stream)
    before = faulthandler.is_enabled()
    faulthandler.enable(stream)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()
        if before and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)


def _leave_word(file: ObjectPath, stream: IO[str]) -> None:
    faulthandler.dump_traceback(stream)
    stream.seek(0)
    try:
        file.write_text(stream.read())
        stand_in(file).unlink(missing_ok=True)
    finally:
        os._exit(1)

"""A user's mistake as an error, the end of a process, and what lets any line be printed."""

import io
import os
import sys
from typing import NoReturn


class StudyError(Exception):
    """A mistake that the user can fix, said in one line: rule, value, remedy."""

    def __str__(self) -> str:
        """Return the line; what cannot be printed, as from a file, is escaped."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


def end_process(line: str) -> NoReturn:
    """End the process with an error's line, whatever its threads wait for."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    os._exit(2)


def print_anything() -> None:
    """Let no line fail to be printed: a question mark stands for what a terminal cannot show.

    A width of 0, as some terminals and editors give, is none.
    """
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_interruption(error: BaseException | None) -> bool:
    """Tell whether an error came up while an interrupt was dealt with.

    Optuna's lock on its journal, for one, is let go twice where Ctrl-C falls into letting it go.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None

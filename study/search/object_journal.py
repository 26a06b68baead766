"""Optuna's journal in an object store, to which nothing can be appended: an object for each append.

One run writes at a time (it holds the lease). When there are many objects, or a run begins, they
are put into one, so that the next has few to read.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from optuna.storages.journal import BaseJournalBackend

from study.errors import StudyError
from study.run_folder.paths import ObjectPath, map_paths

Log = dict[str, Any]
MOST: Final = 1000
"""Objects beside the first."""


class ObjectJournal(BaseJournalBackend):
    """The journal as objects ``NNNNNNNNNN.jsonl`` below ``at``, N the number of its first line.

    What a run wrote last before it died may be both in an object of its own and in a joint one:
    lines that are there already are left out by their number.
    """

    def __init__(self, at: ObjectPath) -> None:
        self.at = at
        parts = sorted(at.glob("*.jsonl"))
        self.logs: list[Log] = []
        for part, logs in zip(parts, map_paths(_read, parts), strict=True):
            first = int(part.stem)
            if first > len(self.logs):
                raise StudyError(
                    f"{at}: must hold Optuna's whole journal, but lines {len(self.logs)} to "
                    f"{first - 1} are missing before {part.name}; remove the objects from there on "
                    "and give the same command again"
                )
            self.logs += logs[len(self.logs) - first :]
        self.parts = [part for part in parts if int(part.stem)]
        self._join()

    def read_logs(self, log_number_from: int) -> Iterable[Log]:
        """Return the lines from a number on."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[Log]) -> None:
        """Write lines at the end."""
        self.parts.append(self._write(len(self.logs), logs))
        self.logs += json.loads(json.dumps(logs))
        if len(self.parts) >= MOST:
            self._join()

    def _join(self) -> None:
        if self.parts:
            first = self._write(0, self.logs)
            others = [part for part in self.parts if part != first]
            list(map_paths(lambda part: part.unlink(missing_ok=True), others))
            self.parts = []

    def _write(self, first: int, logs: list[Log]) -> ObjectPath:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        part = self.at / f"{first:010d}.jsonl"
        part.write_text(lines)
        return part


def _read(part: Any) -> list[Log]:
    try:
        return [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise StudyError(
            f"{part}: must be lines of JSON, but is not; remove it and the objects after it, and "
            "give the same command again"
        ) from None

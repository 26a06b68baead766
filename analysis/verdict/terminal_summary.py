"""The last lines of a command: what was found, how sure that is, and what to do next."""

from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from analysis.verdict import wording
from analysis.verdict.doubts import doubts
from analysis.verdict.schema import INCONCLUSIVE, SOME_ESCAPES, Verdict
from analysis.verdict.wording import winner

WIDE, COLUMN = 100, 12
"""Letters of a line, and those of them in which its name stands."""
MOST: Final = 3
"""Doubts that are told; the page has all."""


def terminal_summary(verdict: Verdict, confirmed: bool, given: bool = False) -> list[str]:
    """Return lines for a terminal.

    Args:
        verdict: Of the run.
        confirmed: Whether anything was confirmed yet.
        given: Whether it is of predictions alone, so that no study can be run again.
    """
    if not confirmed:
        return [verdict.sentence]
    sure = " ".join(wording.details(verdict))
    least = verdict.detectable_effect
    if verdict.verdict == INCONCLUSIVE and least.worst is not None:
        sure += (
            f" The study had a power of {least.power:g} to find a recovery of {least.worst:.2f} in "
            "every measure."
        )
    told = {"found": verdict.sentence, "how sure": sure}
    against = [text for state, text in doubts(verdict) if state == "no"]
    if verdict.verdict == SOME_ESCAPES or verdict.withheld:
        told["against it"] = "; ".join(against[:MOST])
    told["next"] = "" if given else " ".join(_next(verdict))
    return [line for name, text in told.items() if text for line in _folded(name, text)]


def _folded(name: str, text: str) -> list[str]:
    """Return a text in lines, none of which breaks a number from its unit."""
    text, room = text.replace(" %", "\u00a0%"), WIDE - COLUMN
    lines = wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return [f"{name if not n else '':<{COLUMN}}{line}" for n, line in enumerate(lines)]


def _next(verdict: Verdict) -> Iterator[str]:
    """Yield what would make the answer surer."""
    if verdict.unfinished:
        yield "the same command goes on where it stopped."
        return
    if verdict.withheld:
        yield "see in the report why a control did not do as it must; that decides first."
        return
    if winner(verdict) is not None:
        yield (
            "see what could overturn this at the top of the report; then repeat it, with "
            "another --out, on test data that nobody has looked at."
        )
        return
    first = next((arm for arm in verdict.arms if arm.role == "candidate"), None)
    needed = first.needed if first and first.verdict == INCONCLUSIVE else None
    if first is None or needed is None:
        return
    told = wording.names(verdict.arms)[first.arm]
    truths = ((needed.escape, f"{needed.recovery:g}"), (needed.track, "0"))
    known = [(seeds, truth) for seeds, truth in truths if seeds and seeds > first.seeds]
    if known:
        ways = " or ".join(f"{seeds} seeds if its recovery is {truth}" for seeds, truth in known)
        yield (
            f"“{told}” would be decided with power {needed.power:g} by {ways}: give the command "
            f"with --set protocol.seeds={max(known)[0]} and another --out (seeds that are added "
            "after a look make a verdict exploratory)."
        )
    elif not needed.escape and needed.escape_on_these:
        yield (
            f"no number of seeds shows that “{told}” escapes, if its recovery is "
            f"{needed.recovery:g}, for want of test examples: with unlimited ones "
            f"{needed.escape_on_these} seeds would."
        )

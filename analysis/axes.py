"""Where a trial stands along a declared domain, drawn from 0 to 1, and the labels of that axis."""

from typing import Any, Final

from analysis.exploration import Seen, declared

WIDTH: Final = 44
"""Letters that fit below a panel."""


def declared_value(value: Any) -> str:
    """Return a parameter's value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def beside(one: Seen, value: Any, number: int) -> float:
    """Return where a trial stands: values of a choice are spread evenly within their slot."""
    at = one.domain.position(value)
    if not one.domain.stepped:
        return at
    return at + (number * 0.618034 % 1 - 0.5) * 0.6 / one.domain.slots


def axis_ticks(one: Seen) -> list[dict[str, Any]]:
    """Return the labels below a panel: choices, or the ends and the middle of a range."""
    domain = one.domain
    if domain.choices:
        room = WIDTH // domain.slots
        texts = declared(domain).split(", ")
        short = [text if len(text) <= room else f"{text[: room - 1]}…" for text in texts]
        return [
            {"kind": "center", "at": (n + 0.5) / domain.slots, "value": text}
            for n, text in enumerate(short)
        ]
    return [
        {"kind": kind, "at": at, "value": f"{domain.at(at):.2g}"}
        for at, kind in ((0.0, "left"), (0.5, "center"), (1.0, "right"))
    ]

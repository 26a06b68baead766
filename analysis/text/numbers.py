"""Numbers as readers see them."""

from typing import Any, Final

from analysis.verdict.schema import Effect

UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def size(value: float | None) -> str:
    """Return a count in three digits and a thousands' letter, or a dash."""
    if value is None:
        return "–"
    for unit, letter in UNITS:
        if abs(value) >= unit * 0.9995:
            return f"{three_digits(value / unit)}\u00a0{letter}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """Return a number with about three significant digits."""
    digits = 0 if value >= 99.95 or value == round(value) else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"


def times(value: float | None) -> str:
    """Return a multiple, or nothing."""
    return "" if value is None else f"{three_digits(value)}×"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash where there is none."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(effect: Effect) -> str:
    """Return the interval of an effect that decides, as text."""
    if effect.low is None:
        return "[unbounded]"
    return f"[{number(effect.low)}, {number(effect.high)}]"


def plain(value: Any) -> str:
    """Return a parameter's value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""What a command printed last, by what it is about."""

from analysis.verdict.terminal_summary import COLUMN


def told(printed: str) -> dict[str, str]:
    """Return the texts of the last lines by their names, unfolded."""
    found: dict[str, str] = {}
    for line in printed.splitlines():
        name = line[:COLUMN].strip() or [*found][-1]
        found[name] = f"{found.get(name, '')} {line[COLUMN:].strip()}".strip().replace(
            "\u00a0", " "
        )
    return found

"""The error that stands for a user's mistake."""


class StudyError(Exception):
    """A mistake that the user can mend, said in one line: rule, value, remedy."""

    def __str__(self) -> str:
        """Return the line; what cannot be printed, as from a file, is escaped."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())

"""The numbers on which a verdict rests; a study may declare another margin and another level."""

from typing import Final

DELTA: Final = 0.25
"""The margin, in units of recovery, where none is declared."""
ALPHA: Final = 0.05
"""The one-sided level of every test, where none is declared."""
LEAST_SEEDS: Final = 5
"""Of every arm: with fewer the shape of the errors cannot be seen, and a t-test rests on that."""
APART: Final = 2.0
"""Standard errors of a difference on validation data above which one network is the better one."""

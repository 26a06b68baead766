"""The report: ``python -m analysis.report``."""

import sys

if sys.flags.optimize > 1:
    raise SystemExit(
        "error: Python must keep docstrings, which Altair reads, but was started without them; "
        "unset PYTHONOPTIMIZE, or leave -OO out"
    )

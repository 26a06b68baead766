"""Everything that judges: metrics, statistics, verdicts, the report; from Parquet files alone.

In a notebook or a script::

    import analysis

    result = analysis.open("runs/be")
    result.recoveries()
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.result import Result

__all__ = ["open"]


def open(
    run: str | Path | None = None, *, predictions: str | Path | None = None, workers: int = 1
) -> "Result":
    """Open a run, or predictions of your own, to look at what was found.

    Args:
        run: Folder or address (``s3://…``) that a study wrote; the study may still be at work.
        predictions: In place of a run: a folder of ``<arm>/<seed>/test.parquet``.
        workers: Processes that measure a large run. With more than one, a script needs
            ``if __name__ == "__main__":``; a notebook does not.

    Returns:
        The result, as the run is now. Only the rows of the trials have been read; everything else
        is computed when it is first asked for.

    Raises:
        StudyError: When there is no such run, or a file breaks the format.
        TypeError: When not exactly one of ``run`` and ``predictions`` is given.
    """
    # Here, so that ``import analysis`` takes no time.
    from analysis.data.external import load_predictions
    from analysis.data.run import load
    from analysis.result import Result
    from study.run_folder.paths import any_path

    if (run is None) == (predictions is None):
        raise TypeError("analysis.open takes either a run or predictions=…, and not both")
    found = load_predictions(predictions) if predictions is not None else load(any_path(run or ""))
    return Result(found, workers)

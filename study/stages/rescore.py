"""The rescore stage: the best of the search run again, as the luckiest of many trials look best."""

from collections import Counter

from study.errors import StudyError
from study.jobs import Job, Rows
from study.space.settings import Study
from study.spec import derive_seed
from study.stages.arms import is_candidate, search_rows, spec_of
from study.stages.selection import rank


def finalists(study: Study, method: str, rows: Rows) -> list[str]:
    """Return the configurations of a method that run again, from best to worst in the search."""
    return rank(search_rows(method, rows), is_candidate(study, method))[: study.budget.rescore]


def rescore_jobs(study: Study, finalists: list[str], rows: Rows) -> list[Job]:
    """Return the runs of each finalist on fresh seeds."""
    jobs = []
    for configuration in finalists:
        spec = spec_of(configuration, rows)
        for replicate in range(1, study.budget.rescore_seeds + 1):
            seed = derive_seed(study.seed, "rescore", configuration, replicate)
            jobs.append(Job(spec.trial_of(spec.role, "rescore", replicate, seed)))
    return jobs


def ranked(study: Study, method: str, finalists: list[str], rows: Rows) -> list[str]:
    """Return the finalists from best to worst, by their runs on fresh search seeds.

    The one run by which each became a finalist was a lucky one; by it the luckiest would win.

    Raises:
        StudyError: When no trial of the method is complete.
    """
    stage = "rescore" if study.budget.rescore_seeds else "search"
    found = (r for r in rows.values() if r.stage == stage and r.configuration in finalists)
    judged = sorted(found, key=lambda row: row.trial)
    ordered = rank(judged, is_candidate(study, method))
    if ordered:
        return ordered
    # Without a finalist it was the search in which all failed.
    failed = judged or search_rows(method, rows)
    reasons = Counter(f"{row.status}: {row.reason}" for row in failed)
    raise StudyError(
        f"{method}: none of the {reasons.total()} {failed[0].stage} trials is complete (most often "
        f"{reasons.most_common(1)[0][0]}); fix the method or its space and choose another --out"
    )

"""Ray: starts the runtime and lets Tune run what the job queue says, on as many slots as fit.

Tune's own state is never restored: what is complete is what is committed, so each start makes a
new Tuner for what is missing.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from functools import partial

import ray
from ray import tune

from study.cluster.job_queue import JobQueue
from study.cluster.nodes import Nodes, fitting
from study.cluster.out_of_memory import survive_out_of_memory
from study.cluster.ray_start import TERMINATED, ending_with_ray, start_ray
from study.cluster.runtime import Runtime
from study.cluster.trackers import callbacks
from study.cluster.tune_searcher import JobQueueSearcher, OldestWithoutWorker, Watching
from study.cluster.worker import trainable
from study.datasets import Dataset
from study.errors import StudyError, is_interruption
from study.jobs import Rows, Together
from study.progress.table import Progress
from study.run_folder.free_space import free_space
from study.run_folder.store import RunFolder
from study.search.storage import silence
from study.space.settings import Study
from study.spec import TrialSpec
from study.stages.analysis_interface import Analysis
from study.stages.sequence import stages
from study.stages.stage import ReplicatesPerJob
from study.training.stack import alike
from study.trials.trial import refusal, replicates_as_one

FULL = 1e6
"""Bytes of free space below which a disk counts as full."""


def schedule(
    study: Study,
    store: RunFolder,
    rows: Rows,
    data: Dataset,
    fingerprint: str,
    runtime: Runtime,
    analysis: Analysis,
) -> bool:
    """Run every missing trial under Ray Tune; return whether the study is complete.

    This process must have joined the cluster, if ``runtime`` names one.
    """
    verbose = runtime.verbose
    if not verbose:
        silence()
    replicates_per_job = _replicates_per_job(study, data)
    try:
        together = _together(study, runtime, replicates_per_job)
        refused = partial(refusal, shape=data.shape, classes=data.classes)
        every = stages(study, store, rows, replicates_per_job, analysis, together, refused)
        job_queue = JobQueue(study, store, rows, fingerprint, Progress(), every)
    except (StudyError, OSError):
        raise
    except Exception as error:  # As of a database.
        raise _stopped(store, error) from (error if verbose else None)
    if job_queue.finished:
        print("nothing is missing")
        return True
    return _run_jobs(study, data, runtime, job_queue)


def _run_jobs(study: Study, data: Dataset, runtime: Runtime, job_queue: JobQueue) -> bool:
    """Let Ray run what the queue has; return whether nothing is left of it."""
    store, verbose = job_queue.store, runtime.verbose
    nodes: Nodes | None = None
    storage_path = ""
    with ExitStack() as ray_watched:  # In its shutdown, too.
        try:
            if runtime.address is None:  # A cluster has been joined, before anything was written.
                start_ray(None, verbose)
            ray_watched.enter_context(
                ending_with_ray(f"--out {store.root}", job_queue.progress.close)
            )
            nodes = Nodes(study, store, joined=runtime.address is not None)
            nodes.require(runtime.unchecked)
            nodes.pack(data)
            searcher = JobQueueSearcher(job_queue, nodes)
            # Tune's state is not needed again; an object store would only make it slow.
            storage_path = tempfile.mkdtemp(prefix="tune-") if store.remote else str(store.ray)
            tuner = _tuner(searcher, data, runtime, storage_path)
            try:
                tuner.fit()
            except Exception as error:
                searcher.error = searcher.error or error
            # What is ended while it works may fail in any way.
            if TERMINATED.is_set() or is_interruption(searcher.error):
                return False
            if (why := searcher.error) is not None:
                told = isinstance(why, StudyError | OSError)
                raise why if told else _stopped(store, why) from (why if verbose else None)
            return job_queue.finished
        except KeyboardInterrupt:
            return False
        finally:
            job_queue.progress.close()
            job_queue.progress.summary()
            if nodes is not None:
                nodes.forget()
            ray.shutdown()
            if store.remote and storage_path:
                shutil.rmtree(storage_path, ignore_errors=True)


def _tuner(
    searcher: JobQueueSearcher, data: Dataset, runtime: Runtime, storage_path: str
) -> tune.Tuner:
    """Return Tune, set up to run what the searcher says."""
    nodes, study, store = searcher.nodes, searcher.nodes.study, searcher.nodes.store
    survive_out_of_memory()
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, data=data), {"cpu": nodes.cpus, "gpu": nodes.gpus}
        ),
        param_space={
            "out": str(store.root),
            "fingerprint": searcher.job_queue.fingerprint,
            "hours": study.resources.trial_hours,
            "gpus": nodes.gpus,
            "execution": study.execution.model_dump(),
        },
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=OldestWithoutWorker(searcher),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage_path,
            verbose=1 if runtime.verbose else 0,
            callbacks=[
                Watching(searcher),
                *callbacks(runtime.log, study.name, store, runtime.verbose),
            ],
        ),
    )


def _replicates_per_job(study: Study, data: Dataset) -> ReplicatesPerJob:
    """Return how many replicates of a trial's configuration a worker gets at a time."""
    most, device = study.execution.most, "cuda" if study.resources.gpus_per_trial else "cpu"
    known: dict[str, int] = {}

    def replicates_per_job(spec: TrialSpec) -> int:
        if spec.configuration not in known:
            try:
                size = replicates_as_one(spec, data.shape, data.classes, most, device)
            except Exception:  # It will fail in its trial, where the reason is noted.
                size = 1
            known[spec.configuration] = size
        return known[spec.configuration]

    return replicates_per_job


def _together(
    study: Study, runtime: Runtime, replicates_per_job: ReplicatesPerJob
) -> Together | None:
    """Return which search trials make up a job: so many that every slot has one of a generation.

    None where the slots are not known, as on a cluster, whose nodes come and go, and where a
    tracker is told of each trial.
    """
    resources = study.resources
    if runtime.address is not None or runtime.log or resources.gpus_per_trial:
        return None
    slots = fitting({"CPU": os.cpu_count() or 1}, resources.cpus_per_trial, 0)
    most = study.budget.generation // max(1, min(slots, resources.concurrency or slots))
    if most < 2:
        return None
    known: dict[str, int] = {}

    def together(spec: TrialSpec) -> tuple[str, int]:
        kind = alike(spec)
        if kind not in known:
            known[kind] = min(most, replicates_per_job(spec))
        return kind, known[kind]

    return together


def _stopped(store: RunFolder, error: Exception) -> StudyError:
    """Say in one line why Tune gave up."""
    free = free_space(store)
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if free < FULL:
        why = f"only {free / 1e6:.1f} MB are free there"
    return StudyError(
        f"--out {store.root}: the run stopped, since {why}; fix that (-v shows more) and give the "
        "same command again: nothing that was finished is lost"
    )

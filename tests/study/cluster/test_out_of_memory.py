"""A study outlives workers that Ray kills when memory is short."""

from types import SimpleNamespace

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError

from study.cluster.job_queue import WorkerDeath
from study.cluster.out_of_memory import ActorManager, as_death
from study.cluster.tune_searcher import worker_death
from study.run_folder.store import RunFolder
from tests.running import finish, start

KILLED = OutOfMemoryError(
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "192.0.2.2, ID: b16) was 22.79GB used / 23.54GB limit (0.96)\nOOM kill reason: ..."
)
"""As Ray 2.60 words it."""
REASON = "Ray killed it, as memory was short"


def test_it_is_the_death_of_a_worker_and_nothing_else_is():
    assert worker_death(as_death(KILLED)) == WorkerDeath(REASON)
    other = ValueError("no")
    assert as_death(other) is other


def ended(manager):
    """Have a worker be killed in a trial; return what the trial is told."""
    told = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, error: told.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: told.append(error))
    manager._cleanup_actor = lambda tracked_actor: None
    manager._actor_task_failed(task, KILLED)
    return told


def test_tune_itself_would_end_the_study():
    """Where this fails, Ray has mended it, and our manager of actors may go."""
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        ended(RayActorManager(None))
    assert [worker_death(error) for error in ended(ActorManager(None))] == [WorkerDeath(REASON)] * 2


@pytest.mark.slow
def test_workers_that_ray_kills_are_failed_trials_with_that_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    out = tmp_path / "run"
    code, printed = finish(start(out, "--set", "resources.max_failures=0"))
    assert code == 2, printed
    rows = RunFolder(out).rows().values()
    assert {row.status for row in rows} == {"failed"}
    reason = f"worker died or could not start: {REASON}"
    assert {row.reason for row in rows} == {reason}
    assert f"(most often failed: {reason})" in printed

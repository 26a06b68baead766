"""Workers that Ray kills when their node is short of memory.

Ray reports that as an error which Tune does not know: it would end the whole study. Ray has no
types: to mypy its classes are any.
"""

from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class KilledForMemoryError(RayActorError):  # type: ignore[misc]
    """The death of a worker, as Tune knows it."""


def as_death(error: Exception) -> Exception:
    """Return the error as the death of an actor where it is Ray's for a want of memory."""
    if not isinstance(error, OutOfMemoryError):
        return error
    return KilledForMemoryError(error_msg="Ray killed it, as memory was short")


class ActorManager(RayActorManager):  # type: ignore[misc]
    """Tune's own, which also survives workers that were killed for want of memory."""

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, as_death(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, as_death(exception))


def survive_out_of_memory() -> None:
    """Have Tune use this manager of actors; it takes none as an argument."""
    tune_controller.RayActorManager = ActorManager

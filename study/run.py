"""``python -m study.run``: from the YAML of a study to its verdict."""

import argparse
import importlib.util
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study.cluster.runtime import Runtime, is_dashboard
from study.commands.run_study import run
from study.errors import StudyError, is_interruption, print_anything
from study.run_folder.paths import local_path
from study.run_folder.store import RunFolder

DATA_ROOT = "STUDY_DATA_ROOT"
COMMAND = "escape-study"
LIBRARIES = ("optuna", "polars", "ray", "torch", "torchvision")
"""Those that are imported after the command line is read."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, 2 for the user's mistakes, 130 when interrupted."""
    print_anything()
    arguments = parser().parse_args(argv)
    argv = sys.argv[1:] if argv is None else argv
    installed = Path(sys.argv[0]).name == COMMAND
    command = shlex.join([*([COMMAND] if installed else ["python", "-m", "study.run"]), *argv])
    try:
        _refuse_shadows()
        with no_interrupt_is_lost():
            return _dispatch(arguments, command, argv)
    except (KeyboardInterrupt, StudyError, OSError) as error:
        if is_interruption(error):
            print(f"\nstopped; nothing that was finished is lost; to go on: {command}")
            return 130
        line = str(error)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            line = (
                f"{where}{error.strerror or error}; fix that and run the same command again: "
                "nothing that was finished is lost"
            )
        print(f"error: {line}", file=sys.stderr)
        return 2


@contextmanager
def no_interrupt_is_lost() -> Iterator[None]:
    """Have a Ctrl-C come again that falls into a destructor, where Python drops any exception.

    Ray's handles of actors have one, and a study that is not stopped trains for hours.
    """
    before = sys.unraisablehook

    main_thread = threading.main_thread().ident

    def in_hook() -> bool:
        frame = sys._current_frames().get(main_thread or 0)
        while frame is not None and frame.f_code is not again.__code__:
            frame = frame.f_back
        return frame is not None

    def send() -> None:
        while in_hook():  # There it would be dropped as well.
            time.sleep(0.01)
        # A real signal, which wakes the main thread wherever it waits.
        signal.pthread_kill(main_thread or 0, signal.SIGINT)

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Thread(target=send, daemon=True).start()
        else:
            before(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    command = argparse.ArgumentParser(
        prog="python -m study.run", description="Run a study, from its YAML file to its verdict."
    )
    add = command.add_argument_group("what to study").add_argument
    add(
        "--space",
        type=local_path,
        action="append",
        required=True,
        metavar="FILE",
        help="search space: a file, or the name of a built-in one; of several, the first gives the "
        "study's settings",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the YAML; may be repeated",
    )
    add(
        "--out",
        metavar="DIR",
        help="run folder (default: runs/<study name>), s3://BUCKET/NAME or gs://BUCKET/NAME",
    )
    add(
        "--data-root",
        type=local_path,
        metavar="DIR",
        default=os.environ.get(DATA_ROOT) or None,
        help=f"folder with the image sets (default: ${DATA_ROOT})",
    )
    add = command.add_argument_group("where and how to run it").add_argument
    add(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster: auto on its head, http://HEAD:8265 from elsewhere (default: a local "
        "runtime of its own)",
    )
    add("--unchecked", action="store_true", help="skip the check of the cluster's nodes")
    add("--mixed", action="store_true", help="resume despite changed package versions")
    add(
        "--log",
        action="append",
        default=[],
        choices=("tensorboard", "mlflow", "wandb"),
        help="also log every job to this tracker; may be repeated",
    )
    add("-v", "--verbose", action="store_true", help="show the logs of Ray and Optuna")
    instead = command.add_argument_group("instead of running (mutually exclusive)")
    mode = instead.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    mode.add_argument("--status", action="store_true", help="show what is done and what is missing")
    mode.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    mode.add_argument("--replay", metavar="TRIAL", help="run one trial again and compare")
    return command


def _refuse_shadows() -> None:
    """Refuse a file of the working folder that Python would import in place of a library."""
    for name in LIBRARIES:
        file = Path(f"{name}.py")
        found = importlib.util.find_spec(name) if file.is_file() else None
        if found is not None and found.origin and file.samefile(found.origin):
            raise StudyError(
                f"{file.absolute()}: must not have the name of a library, but hides {name}; "
                "rename it"
            )


def _dispatch(arguments: argparse.Namespace, command: str, argv: list[str]) -> int:
    from study.space.load import load_study

    runtime = Runtime(
        arguments.address, arguments.verbose, tuple(arguments.log), arguments.unchecked
    )
    study, root = load_study(arguments.space, arguments.set), arguments.data_root
    looks = arguments.status or arguments.verify or arguments.replay or arguments.dry_run
    if is_dashboard(arguments.address) and not looks:
        from study.cluster.submit import submit

        here = [file for file in arguments.space if file.exists()]
        return submit(arguments.address, argv, arguments.out, here)
    store = RunFolder(arguments.out or f"runs/{study.name}")
    if arguments.status:
        from study.commands.status import status

        return status(study, store)
    if arguments.verify:
        from study.run_folder.integrity import verify

        return verify(store)
    if arguments.replay:
        from study.commands.replay import replay

        return replay(store, arguments.replay, root)
    if arguments.dry_run:
        from study.commands.dry_run import dry_run

        return dry_run(study, store, root, runtime)
    return run(study, store, root, command=command, runtime=runtime, mixed=arguments.mixed)


if __name__ == "__main__":
    sys.exit(main())

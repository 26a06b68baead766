"""``--address http://HEAD:8265``: the command as a job of a cluster, watched from here.

Ray copies this folder, but for what ``.gitignore`` names, to the head and runs the same command
there. The study goes on without the one who watches: the same command given again watches it again.
"""

import asyncio
import logging
import os
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any, Final

from study.errors import StudyError
from study.spec import digest

EXCLUDED: Final = ("/.git", "/.venv", "/runs", "/data", "**/__pycache__", "*.egg-info")
INSIDE: Final = "--address auto"
UNDER_WAY: Final = ("PENDING", "RUNNING")


def submit(address: str, argv: list[str], out: str | None, files: list[Path]) -> int:
    """Run the command on the head of a cluster and print what it says; return its status.

    Args:
        address: Of the head's dashboard, ``http://HOST:8265``.
        argv: The command's arguments.
        out: Where the run lies, for every node.
        files: Search spaces, which must lie in this folder.

    Raises:
        StudyError: When the head does not answer, or the command would mean something else there.
    """
    _check_portable(out, files)
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Read when Ray is imported.
    try:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)
        client: Any = JobSubmissionClient(address)
        job = _job(client, address, argv, str(out))
    except Exception as error:  # Ray raises whatever its HTTP library does.
        why = " ".join(str(error).split())[:300]
        raise StudyError(
            f"--address {address}: the head must take jobs, but {why or type(error).__name__}; see "
            "that it is up, that its port is reached (ray dashboard clusters/gpu.yaml), that its "
            "token is in ~/.ray/auth_token here, and that ray[default] is installed"
        ) from None
    try:
        asyncio.run(_follow(client, job))
        return _status(client, job)
    except KeyboardInterrupt:
        print(
            f"\nno longer watched; the study goes on: the same command watches it again, "
            f"ray job stop --address {address} {job} stops it"
        )
        return 130
    except Exception as error:
        raise StudyError(
            f"--address {address}: lost the head ({' '.join(str(error).split())[:200]}); the same "
            "command watches the study again, or goes on with it"
        ) from None


def inside(argv: list[str]) -> str:
    """Return the command as it is given on the head."""
    kept, skip = [], False
    for argument in argv:
        if skip or argument.startswith("--address="):
            skip = False
        elif argument == "--address":
            skip = True
        else:
            kept.append(argument)
    return f"python -m study.run {shlex.join(kept)} {INSIDE}"


def _check_portable(out: str | None, files: list[Path]) -> None:
    """Refuse what is there or not there depending on the machine."""
    if out is None or not ("://" in out or Path(out).is_absolute()):
        raise StudyError(
            f"--out {out or '(not given)'}: a job of a cluster must be told a place that all nodes "
            "share; give s3://BUCKET/NAME (or gs://) or the full path of a shared folder"
        )
    for file in files:
        if file.is_absolute() or ".." in file.parts:
            raise StudyError(
                f"--space {file}: must lie in this folder, which is what the cluster gets; "
                "copy it here"
            )


def _job(client: Any, address: str, argv: list[str], out: str) -> str:
    """Return the job that is under way for this run, or a new one."""
    stem = f"study-{digest(out)}"
    earlier = [job.submission_id for job in client.list_jobs()]
    mine = [job for job in earlier if job is not None and job.startswith(stem)]
    for job in mine:
        if str(client.get_job_status(job).value) in UNDER_WAY:
            print(f"job {job} of {address} is at work on it already; watching")
            return str(job)
    job = client.submit_job(
        entrypoint=inside(argv),
        submission_id=f"{stem}-{uuid.uuid4().hex[:8]}",
        runtime_env={"working_dir": ".", "excludes": list(EXCLUDED)},
    )
    print(f"job {job} of {address}; Ctrl-C stops watching, not the study")
    return str(job)


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def _status(client: Any, job: str) -> int:
    info = client.get_job_info(job)
    if info.status.value in UNDER_WAY:
        raise ConnectionError("its output has ended, but the job goes on")
    if info.driver_exit_code is None:
        print(f"error: job {job} is {info.status.value}: {info.message}", file=sys.stderr)
        return 2
    return int(info.driver_exit_code)

"""What a job is sent along with."""

import subprocess
from pathlib import Path

from study.cluster.submit import EXCLUDED

ROOT = Path(__file__).parents[3]


def test_a_job_gets_every_file_of_the_project():
    # Ray takes the patterns as git does.
    patterns = [word for pattern in EXCLUDED for word in ("-x", pattern)]
    command = ["git", "ls-files", "--cached", "--ignored", *patterns]
    left_out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert left_out.stdout == ""

"""A short campaign of kills; the long one is ``make chaos``."""

import pytest

from tests.chaos import main

pytestmark = pytest.mark.slow


def test_nothing_is_lost_or_doubled_whatever_is_killed(capsys):
    targets = ["--targets", "worker", "driver", "everything"]
    code = main(["--kills", "3", "--per-study", "3", "--seed", "1", *targets])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "3 kills in" in printed

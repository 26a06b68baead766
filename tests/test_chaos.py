"""A short campaign of kills; the long one is ``make chaos``."""

import pytest

from tests.chaos import main

pytestmark = pytest.mark.slow


def test_nothing_is_lost_or_doubled_whatever_is_killed(capsys):
    code = main(["--kills", "5", "--per-study", "5", "--seed", "1"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "5 kills in 1 studies" in printed

"""A run of an earlier release, whose files lay elsewhere in the code, is still read and resumed.

``earlier_run/schema-4.tar.gz`` holds a finished study of the digits, without its report and measures.
"""

import json
import tarfile
from pathlib import Path

import pytest

from analysis.report.__main__ import main as report
from study.run import main
from study.run_folder.store import RunFolder
from study.spec import TrialSpec

RUN = Path(__file__).parent / "earlier_run" / "schema-4.tar.gz"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The run, with the command that made it."""
    with tarfile.open(RUN) as archive:
        # As tarfile's documentation says, since Python 3.11 has filters only from 3.11.4 on.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return ["--space", "earlier.yaml", "--out", "earlier"]


def test_its_trials_have_the_identities_they_had(earlier):
    rows = RunFolder("earlier").rows()
    assert len(rows) == 16
    for trial, row in rows.items():
        spec = TrialSpec.model_validate_json(row.spec)
        assert (spec.trial, spec.configuration) == (trial, row.configuration)
        assert row.deterministic is None  # Nothing said so then.


def test_it_is_whole_and_nothing_of_it_is_missing(earlier, capsys):
    assert main([*earlier, "--verify"]) == 0
    assert main([*earlier, "--mixed"]) == 0  # With other versions of torch, too.
    assert "nothing is missing" in capsys.readouterr().out


def test_it_is_judged_as_it_was(earlier, capsys, tmp_path):
    file = tmp_path / "earlier" / "verdict.json"
    before = json.loads(file.read_text())
    assert report(["--runs", "earlier", "--out", "report.html"]) == 0
    now = json.loads(file.read_text())
    assert now["verdict"] == before["verdict"]
    assert now["plan"]["hash"] == now["plan"]["content_hash"] == before["plan"]["hash"]
    assert not now["plan"]["tried"]
    for then, arm in zip(before["arms"], now["arms"], strict=True):
        # It declared no matched anchors, so it is judged without.
        assert (arm["arm"], arm["verdict"], arm["own"]) == (then["arm"], then["verdict"], None)
        # Its intervals rest on other degrees of freedom; what was measured is what it was.
        for key in ("shift_nll", "gain"):
            assert measured(arm, key) == measured(then, key)


def measured(arm, endpoint):
    found = arm["endpoints"].get(endpoint, {})
    return {key: found.get(key) for key in ("recovery", "mean", "single", "deep_ensemble", "sd")}


def test_a_trial_of_it_is_replayed(earlier, capsys):
    confirmed = [row for row in RunFolder("earlier").rows().values() if row.stage == "confirm"]
    main([*earlier, "--replay", min(row.trial for row in confirmed)])
    printed = capsys.readouterr().out
    assert "same predictions" in printed or "differ" in printed, printed

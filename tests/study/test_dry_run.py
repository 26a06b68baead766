"""The dry run: shows the space, checks that every parameter is used, trains nothing."""

import pytest

from study.dry_run import dry_run
from study.schema import StudyError
from study.space_file import load_study
from study.store import Store


def test_it_shows_the_space_and_estimates(smoke, tmp_path, capsys):
    assert dry_run(smoke, Store(tmp_path / "run"), None) == 0
    out = capsys.readouterr().out
    assert "params.init_std" in out
    assert "sample 2" in out
    assert "nothing was trained" in " ".join(out.split())
    assert list((tmp_path / "run" / "trials").iterdir()) == []


def test_a_parameter_that_nothing_uses_is_found(tmp_path, monkeypatch):
    plugin = tmp_path / "plugins" / "deaf.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "from study.methods import single\n"
        "from study.spec import Strict\n"
        "class Params(Strict):\n    volume: float = 1.0\n"
        "class Ensemble(single.Ensemble):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    space = tmp_path / "deaf.yaml"
    space.write_text(
        "dataset: {name: digits}\nmethod: plugins.deaf\n"
        "fixed: {backbone: {name: mlp, width: 8}, training: {epochs: 1}}\n"
        "search: {params: {volume: {float: [0.0, 1.0]}}, training: {lr: {float: [0.1, 0.2]}}}\n"
    )
    with pytest.raises(StudyError, match=r"params\.volume: searched, but no sampled configuration"):
        dry_run(load_study([space]), Store(tmp_path / "run"), None)

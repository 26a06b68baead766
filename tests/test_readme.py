"""The READMEs are run: their recipes as written, their commands as far as they train nothing."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from study.conformance import check_method
from study.run import main
from study.space.load import load_study
from tests.analysis.printed import told

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "",
    "analysis",
    "benchmarks",
    "clusters",
    "search_spaces",
    "study/datasets",
    "study/methods",
)
READMES = {
    ROOT / folder / "README.md": (ROOT / folder / "README.md").read_text() for folder in FOLDERS
}
BLOCKS = [
    block
    for text in READMES.values()
    for block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
FILES = {
    first.removeprefix("# "): body
    for language, body in BLOCKS
    for first in [body.split("\n", 1)[0]]
    if language in ("python", "yaml") and re.fullmatch(r"# [\w/]+\.(py|yaml)", first)
}
COMMANDS = [
    line.split(" #")[0].strip()
    for language, body in BLOCKS
    if language == "sh"
    for line in body.splitlines()
    if line.strip()
]


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A folder with every file of the READMEs, as the current folder and importable."""
    for name, body in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.startswith("my_ensembles")]:
        monkeypatch.delitem(sys.modules, module)
    return tmp_path


def run_python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_own_images_are_read_by_the_command_that_is_printed(recipes, capsys):
    run_python(recipes, "write_images.py")
    (command,) = (
        line
        for _, block in BLOCKS
        for line in block.splitlines()
        if "--space my_images.yaml" in line
    )
    python, flag, module, *arguments = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "study.run")
    assert main(arguments) == 0
    assert "4 classes, images (1, 8, 8); train 240, val 60, test 200" in capsys.readouterr().out


def test_own_method_conforms(recipes):
    check_method("my_ensembles.noisy", {"members": 3}, "mlp")


def test_own_study_passes_the_dry_run(recipes, capsys):
    assert main(["--space", "noisy.yaml", "--dry-run"]) == 0
    assert "params.noise" in capsys.readouterr().out


@pytest.mark.slow
def test_own_method_data_and_regulariser_make_a_study(recipes):
    printed = run_python(recipes, "-m", "study.run", "--space", "noisy.yaml")
    verdict = json.loads((recipes / "runs" / "noisy" / "verdict.json").read_text())
    assert verdict["sentence"] in printed


@pytest.mark.slow
def test_own_predictions_are_judged(recipes, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # Small networks: threads wait for each other.
    run_python(recipes, "write_predictions.py")
    command = next(c for c in COMMANDS if "--predictions" in c)
    printed = run_python(recipes, *shlex.split(command)[1:])
    verdict = json.loads((recipes / "verdict.json").read_text())
    assert told(printed)["found"] == verdict["sentence"]
    assert (recipes / "my_report.html").exists()
    assert [(arm["name"], arm["seeds"]) for arm in verdict["arms"]] == [("halves", 8)]
    assert all(gate["open"] for gate in verdict["gates"])
    assert verdict["arms"][0]["endpoints"]["gain"]["recovery"] > 1


def test_a_finished_study_is_opened_as_in_a_notebook(recipes, finished_study):
    (recipes / "runs").mkdir()
    shutil.copytree(finished_study.out, recipes / "runs" / "be")
    printed = run_python(recipes, "analyse.py")
    verdict = json.loads((finished_study.out / "verdict.json").read_text())
    assert printed.startswith(verdict["sentence"] + "\n")
    assert "probabilities" in printed
    assert "<svg" in (recipes / "recovery.svg").read_text()


def test_a_network_of_ones_own_is_trained_in_a_loop_of_ones_own(recipes):
    losses = [float(line.split()[1]) for line in run_python(recipes, "own_loop.py").splitlines()]
    assert len(losses) == 50
    assert losses[-1] < 0.5 * losses[0]


def test_the_space_shown_in_full_is_a_space(tmp_path):
    body = next(b for language, b in BLOCKS if language == "yaml" and "in full" in b)
    file = tmp_path / "mine.yaml"
    file.write_text(body)
    assert load_study([file]).name == "mine"


def test_every_command_exists(monkeypatch):
    monkeypatch.chdir(ROOT)
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        words = shlex.split(command)
        while "=" in words[0]:
            words = words[1:]
        if words[:2] == ["ray", "exec"]:
            words = shlex.split(words[3].rpartition(" && ")[2])
        if words[0] in ("ray", "sbatch", "kubectl"):
            files = [word for word in words if word.startswith("clusters/")]
            assert all((ROOT / file).exists() for file in files)
        elif words[0] == "pip":
            assert words[1:] == ["install", "-c", "clusters/constraints.txt", "-e", ".[cluster]"]
        elif words[0] == "make":
            assert f"\n{words[1]}:" in makefile
        elif "study.run" in words:
            from study.run import parser

            arguments = parser().parse_args(words[words.index("study.run") + 1 :])
            assert all(file.exists() or file.name in FILES for file in arguments.space)
        elif words[2] in ("analysis.plan", "analysis.validation"):
            package = words[2] == "analysis.validation"
            module = import_module(f"{words[2]}.__main__" if package else words[2])
            module.parser().parse_args(words[3:])
        else:
            assert words[:3] == ["python", "-m", "analysis.report"]


def anchors(text):
    """Return what GitHub calls the headings of a page."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_heading_named_exists(readme):
    text = READMES[readme]
    for path in re.findall(r"`((?:study|search_spaces|clusters|tests|analysis)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\[[^]]*\]\((?!https?:)([^)]+)\)", text):
        path, _, heading = link.partition("#")
        assert (readme.parent / path).exists(), link
        assert not heading or heading in anchors((readme.parent / path).read_text()), link

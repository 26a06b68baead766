"""Who may import whom: a folder imports only from the folders below it; heavy packages stay out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "study": [
        ["errors"],
        ["parquet_format", "thresholds"],
        ["spec", "plugins", "run_folder"],
        ["jobs", "layers", "regularisers", "datasets"],
        ["backbones", "methods"],
        ["conformance", "space", "training"],
        ["diagnostics"],
        ["trials", "search"],
        ["stages"],
        ["progress"],
        ["cluster"],
        ["commands"],
        ["run"],
    ],
    "analysis": [
        ["verdict.schema"],
        ["text", "data", "metrics"],
        ["stats"],
        ["measures"],
        ["verdict"],
        ["figures"],
        ["result", "plan", "validation"],
        ["report", "publication"],
        ["factorial"],
    ],
}
"""Folders, and files, from below to above; those in one row do not know each other."""

ACROSS = {
    "study": {
        # The formulas are those of the tests which judge; the study's start hands them down.
        "study.commands.power": {"analysis.stats.power", "analysis.metrics", "analysis.data"},
    },
    "analysis": {
        "*": {
            "study.parquet_format",
            "study.thresholds",
            "study.errors",
            "study.run_folder.paths",
        }
    },
}
"""What may be imported from the other package, and by whom."""

HOMES = {"ray": "study.cluster", "optuna": "study.search"}
"""The one folder that may import each."""


def modules(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file


def every_module():
    return [pair for package in LAYERS for pair in modules(package)]


def imports(file):
    """Yield every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name, module):
    return name == module or name.startswith(f"{module}.")


def layer(module):
    package, _, rest = module.partition(".")
    found = {name: n for n, row in enumerate(LAYERS[package]) for name in row if is_in(rest, name)}
    return found[max(found, key=len)] if found else None


def test_every_folder_has_a_layer():
    assert [m for m, _ in every_module() if m not in LAYERS and layer(m) is None] == []


def test_the_maps_name_nothing_that_is_gone():
    for package, rows in LAYERS.items():
        for name in (name for row in rows for name in row):
            place = ROOT / package / name.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), place


@pytest.mark.parametrize(("module", "file"), every_module(), ids=lambda v: str(v))
def test_a_folder_imports_only_from_below(module, file):
    package, _, rest = module.partition(".")
    if not rest:
        return  # The package itself hands on what its folders have, when that is asked for.
    for name in imports(file):
        top, _, other = name.partition(".")
        if top != package or other.partition(".")[0] == rest.partition(".")[0]:
            continue
        assert layer(name) is not None, f"{module} imports {name}"
        assert layer(name) < layer(module), f"{module} imports {name}"


@pytest.mark.parametrize(("module", "file"), every_module(), ids=lambda v: str(v))
def test_the_packages_share_little(module, file):
    package = module.partition(".")[0]
    (other,) = set(LAYERS) - {package}
    allowed = ACROSS[package].get("*", set()) | ACROSS[package].get(module, set())
    for name in imports(file):
        if is_in(name, other):
            assert any(is_in(name, one) for one in allowed), f"{module} imports {name}"


@pytest.mark.parametrize(("module", "file"), list(modules("analysis")), ids=lambda v: str(v))
def test_analysis_imports_neither_training_nor_scheduling(module, file):
    for name in imports(file):
        assert name.split(".")[0] not in ("torch", "torchvision", "ray", "optuna"), module


@pytest.mark.parametrize("package", HOMES)
def test_ray_and_optuna_stay_where_they_belong(package):
    users = {m for m, f in modules("study") for n in imports(f) if is_in(n, package)}
    assert users
    assert {m for m in users if not is_in(m, HOMES[package])} == set()


HEAVY = ["ray", "optuna", "polars", "torchvision", "altair", "sklearn"]


def imported_by(code):
    """Return which heavy packages a fresh interpreter has after running ``code``."""
    probe = f"import sys; {code}; print(*[m for m in {[*HEAVY, 'torch']} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_by_itself_is_light(package):
    assert imported_by(f"import {package}") == set()


def test_the_path_of_a_trial_is_light():
    code = "import study.trials.trial, study.methods.batch_ensemble"
    assert imported_by(code) == {"torch"}


def test_help_is_light():
    code = "from study.run import main; import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n  try: main(['--help'])\n  except SystemExit: pass\nimport sys"
    assert imported_by(f"exec({code!r})") == set()


def test_analysis_needs_no_torch():
    assert "torch" not in imported_by("import analysis.report.__main__")

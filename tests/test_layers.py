"""Who may import whom: a module imports only what stands to its left; heavy packages stay out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    ["study.schema"],
    ["study.spec", "study.place", "study.runtime"],
    ["study.plugins", "study.members", "study.convolution", "study.heads", "study.pretrained", "study.packing", "study.allocator", "study.dropout", "study.first_layer", "study.quantisation", "study.fast_weights"],
    ["study.corruptions", "study.datasets", "study.backbones", "study.methods", "study.regularisers"],
    ["study.conformance"],
    ["study.space"],
    ["study.space_file"],
    ["study.batches", "study.cost", "study.predictions"],
    ["study.geometry", "study.landscape", "study.evidence"],
    ["study.train"],
    ["study.lease", "study.hang"],
    ["study.store", "study.journal"],
    ["study.integrity"],
    ["study.trial"],
    ["study.search", "study.selection"],
    ["study.plan"],
    ["study.pilot"],
    ["study.disk"],
    ["study.stages"],
    ["study.remaining", "study.loggers"],
    ["study.progress"],
    ["study.agenda"],
    ["study.dry_run"],
    ["study.preflight"],
    ["study.nodes"],
    ["study.join", "study.handover", "study.submit"],
    ["study.scheduler"],
    ["study.status", "study.replay"],
    ["study.run"],
]  # fmt: skip


def modules(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file


def imports(file):
    """Yield every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module):
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None


def test_every_module_of_study_has_a_layer():
    assert [m for m, _ in modules("study") if m != "study" and layer(m) is None] == []


@pytest.mark.parametrize(("module", "file"), list(modules("study")), ids=lambda v: str(v))
def test_a_module_imports_only_from_its_left(module, file):
    own = layer(module)
    for name in imports(file):
        other = layer(name)
        if own is not None and other is not None:
            assert other <= own, f"{module} imports {name}"


@pytest.mark.parametrize(("module", "file"), list(modules("analysis")), ids=lambda v: str(v))
def test_analysis_imports_neither_training_nor_scheduling(module, file):
    for name in imports(file):
        assert name.split(".")[0] not in ("torch", "torchvision", "ray", "optuna"), module
        if name.split(".")[0] == "study":
            assert name.startswith(("study.schema", "study.place")) or name == "study", module


def test_ray_and_optuna_stay_where_they_belong():
    for package, allowed in {
        "ray": {
            "study.join",
            "study.handover",
            "study.loggers",
            "study.nodes",
            "study.preflight",
            "study.scheduler",
            "study.submit",
        },
        "optuna": {"study.journal", "study.search", "study.scheduler", "study.dry_run"},
    }.items():
        users = {m for m, f in modules("study") for n in imports(f) if n.split(".")[0] == package}
        assert users <= allowed


HEAVY = ["ray", "optuna", "polars", "torchvision", "altair", "sklearn"]


def imported_by(code):
    """Return which heavy packages a fresh interpreter has after running ``code``."""
    probe = f"import sys; {code}; print(*[m for m in {[*HEAVY, 'torch']} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_the_path_of_a_trial_is_light():
    assert imported_by("import study.trial, study.methods.batch_ensemble") == {"torch"}


def test_help_is_light():
    code = "from study.run import main; import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n  try: main(['--help'])\n  except SystemExit: pass\nimport sys"
    assert imported_by(f"exec({code!r})") == set()


def test_analysis_needs_no_torch():
    assert "torch" not in imported_by("import analysis.report")

"""No comprehension hides a function that is called beside it: Python 3.12.1 then loses it.

It computes comprehensions within their function (PEP 709). Where one has a global name as its
variable and another uses that name, it takes it for a local variable: UnboundLocalError. Python
3.13.0 does not.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    file for package in ("study", "analysis") for file in sorted((ROOT / package).rglob("*.py"))
]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def variables(comprehension):
    targets = (generator.target for generator in comprehension.generators)
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def hidden(tree):
    """Return the global names of a module that a function uses both ways, with their lines."""
    top = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    imported = [
        a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    known = {n.name for n in top} | set(imported)
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        own = [n for n in ast.walk(function) if isinstance(n, COMPREHENSIONS)]
        clash = known & set().union(*map(variables, own))
        inside = {
            id(n)
            for c in own
            for n in ast.walk(c)
            if isinstance(n, ast.Name) and n.id in variables(c)
        }
        rest = [n for n in ast.walk(function) if isinstance(n, ast.Name) and id(n) not in inside]
        local = {n.id for n in rest if isinstance(n.ctx, ast.Store)}
        local |= {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
        found += [(n.id, n.lineno) for n in rest if n.id in clash - local]
    return found


def test_a_hidden_function_is_seen():
    code = "def f(): ...\ndef g(xs):\n    a = {x: f for f, x in xs}\n    return [f(x) for x in a]"
    assert hidden(ast.parse(code)) == [("f", 4)]
    assert hidden(ast.parse(code.replace("f for f", "n for n"))) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_comprehension_hides_what_is_called_beside_it(file):
    assert hidden(ast.parse(file.read_text())) == []

"""What the package imports is declared in pyproject.toml, and nothing comes along by chance."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = {"easy_vqa": "easy-vqa", "lmdb": "lmdb"}  # optional: may be absent here
TYPES = "_typeshed"  # of type checkers, never imported when run


def test_every_imported_package_is_declared():
    """tokenizers and huggingface_hub were imported and not declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    assert "pillow>=11.3" in declared, "older ones run past a buffer in DDS files"
    names = {
        requirement.split(">")[0].split("=")[0].split("[")[0].lower().replace("_", "-") for requirement in declared
    }
    imported: dict[str, str] = {}
    for path in (ROOT / "cdvqa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {module.split(".")[0]: path.name for module in modules}
    found, foreign = packages_distributions(), set(imported) - {*sys.stdlib_module_names, "cdvqa", TYPES}
    assert {"torch", "tokenizers", "huggingface_hub", "lightning_fabric"} <= foreign
    providers = {name: found.get(name, [NAMES.get(name, name)]) for name in foreign}
    assert [n for n, by in providers.items() if not {one.lower().replace("_", "-") for one in by} & names] == []


def test_the_readme_warns_of_foreign_configs():
    assert "A config is code" in (ROOT / "README.md").read_text()

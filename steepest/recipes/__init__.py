"""Recipes: functions that make a run; their keyword arguments are the command line.

A recipe is a function `run(...) -> Run` in a file of its own: here, or anywhere.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steepest.errors import RecipeError, nearest

Recipe = Callable[..., Any]


def recipe_lines() -> dict[str, str]:
    """Return the built-in recipes: name -> the first line of its file, without importing it."""
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text("utf-8"))) for file in files}
    return {name: (text or "").partition("\n")[0] for name, text in texts.items()}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a built-in name or of a path that ends in .py.

    Raises:
        RecipeError: there is none. What the file itself raises is passed on.
    """
    if name.endswith(".py"):
        return _checked(_load(Path(name)), name)
    names = list(recipe_lines())
    if name not in names:
        raise RecipeError(
            f"A recipe is one of {', '.join(names)}, or a file of yours that ends in .py: "
            f"got {name!r}{nearest(name, names)}"
        )
    return _checked(importlib.import_module(f"steepest.recipes.{name}"), name)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise RecipeError(f"A recipe of yours is a Python file: there is no file {path}")
    name = f"recipe_{path.stem}"  # a file json.py must not take the place of a module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # what Python does for a script
    spec.loader.exec_module(module)
    return module


def _checked(module: Any, name: str) -> Recipe:
    recipe = vars(module).get("run")
    if not callable(recipe):
        raise RecipeError(
            f"A recipe is a function `run(...) -> Run`: {name} has none; "
            "write `def run(lr=0.1) -> Run: ...`"
        )
    return recipe

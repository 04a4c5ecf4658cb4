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


def start_of(name: str | None = None) -> str:
    """Return the text that a recipe of one's own begins with: a built-in one's, or a commented one.

    `FILE` stands in its comments for the file's name.

    Raises:
        RecipeError: there is no such built-in recipe.
    """
    here = Path(__file__).parent
    if name is None:
        return (here / "new" / "start.py").read_text("utf-8")
    _check_name(name)
    lines = (here / f"{name}.py").read_text("utf-8").splitlines()
    title = ast.parse("\n".join(lines)).body[0].end_lineno
    began = f"# It began as the recipe `{name}` of steepest. Train it: steepest train FILE"
    return "\n".join([*lines[:title], "", began, *lines[title:]]) + "\n"


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a built-in name or of a path that ends in .py.

    Raises:
        RecipeError: there is none. What the file itself raises is passed on.
    """
    if name.endswith(".py"):
        return _checked(_load(Path(name)), name)
    _check_name(name, ", or a file of yours that ends in .py")
    return _checked(importlib.import_module(f"steepest.recipes.{name}"), name)


def _check_name(name: str, otherwise: str = "") -> None:
    names = list(recipe_lines())
    if name not in names:
        near = nearest(name, names)
        raise RecipeError(f"A recipe is one of {', '.join(names)}{otherwise}: got {name!r}{near}")


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

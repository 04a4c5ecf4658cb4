"""`steepest new`: the start of a recipe of one's own."""

import ast
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from steepest.argv import read
from steepest.cli import HELP
from steepest.errors import RecipeError
from steepest.recipes import start_of

USAGE = """usage: steepest new FILE.py [--from RECIPE] [--force]

Write the start of a recipe of your own, which runs at once.

  --from RECIPE  begin with a built-in recipe: line, table, digits or chars; left out, with a
                 commented start that explains itself
  --force        write over a file that is there already

example:
  steepest new my_recipe.py --from table"""
TAKEN = {*sys.stdlib_module_names, "numpy", "steepest", "torch"}


def main(words: list[str]) -> int:
    """Write the file and say what to type next; return the exit code."""
    if {*words} & {*HELP}:
        print(USAGE)
        return 0
    asked = read(new, "new", words)
    path, began = asked["file"], asked["kind"]
    check_name(path)
    text = start_of(began)
    write(path, told(text, path), force=asked["force"])
    command = shlex.join(["steepest", "train", str(path)])
    needed = "".join(f" --{name.replace('_', '-')} {name.upper()}" for name in required(text))
    print(f"{path}: a recipe of yours, which began as {began or 'a commented start'}")
    print(f"  train:    {command}{needed}")
    print(f"  options:  {command} --help")
    return 0


def new(
    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE.py")]],
    kind: Annotated[str | None, tyro.conf.arg(name="from", metavar="RECIPE")] = None,
    force: bool = False,
) -> None:
    """Take what `USAGE` tells of."""


def check_name(path: Path) -> None:
    """Refuse a name that is no recipe's.

    Raises:
        RecipeError: it does not end in .py, or Python would import it instead of a module.
    """
    if path.suffix != ".py":
        raise RecipeError(
            f"A recipe is a file that ends in .py: got {path}; call it {path.stem}.py"
        )
    if path.stem in TAKEN:
        raise RecipeError(
            f"A recipe has a name of its own: {path.name} would be imported instead of the module "
            f"{path.stem}; choose another"
        )


def told(text: str, path: Path) -> str:
    """Return the text with the file's name in its comments."""
    name = shlex.quote(str(path))
    lines = text.splitlines(keepends=True)
    return "".join(line.replace("FILE", name) if line.startswith("#") else line for line in lines)


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a new file; over an earlier one only by force.

    Raises:
        RecipeError: it is there already, or cannot be written.
    """
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(
            f"A new recipe has a file of its own: {path} is there already; choose another name, or "
            "write over it with --force"
        ) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}") from None


def required(text: str) -> list[str]:
    """Return the options of a recipe that have no default."""
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    (run,) = [function for function in functions if function.name == "run"]
    names = [argument.arg for argument in run.args.args]
    return names[: len(names) - len(run.args.defaults)]

"""`steepest find-lr`: a learning-rate range test of what a recipe makes."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.cli import FAILED, HELP
from steepest.cli.train import make_run
from steepest.errors import RecipeError
from steepest.recipes import find_recipe

if TYPE_CHECKING:
    from steepest.find_lr import FoundLR

USAGE = """usage: steepest find-lr RECIPE [options]

Train a little with a larger and larger learning rate, and say which one to take. The recipe's
options are its own; `steepest find-lr RECIPE --help` shows them all.

example:
  steepest find-lr table --data houses.csv --target price --optimizer Adam"""


def main(words: list[str]) -> int:
    """Print the learning rate to take and why; return the exit code, 1 where there is none."""
    if not words or words[0] in HELP:
        print(USAGE)
        return 0
    name, *rest = words
    if name.startswith("-"):
        raise RecipeError(f"The recipe comes before its options: got {name} first")
    recipe = find_recipe(name)
    from steepest.find_lr import find_lr  # torch, from here on
    from steepest.options import TRAINING, Option, parse_beside

    test: dict[str, Option] = {
        "start": (float | None, "lowest learning rate, 1e-7 if left out"),
        "end": (float | None, "highest learning rate, 10 if left out"),
        "steps": (int | None, "how many learning rates, 100 if left out"),
    }
    out: dict[str, Option] = {"out": (Path | None, "picture of the curve, lr.png if left out")}
    update = ("clip_norm", "accumulate", "precision", "deterministic", "threads")
    others = {**test, **out, **{field: TRAINING[field] for field in update}}
    options, given = parse_beside(recipe, f"find-lr {name}", rest, others)
    picture = given.get("out", Path("lr.png"))
    if picture.suffix.lower() != ".png":
        raise RecipeError(f"out is the name of a picture that ends in .png: got {picture}")
    table = picture.with_suffix(".csv")
    check_table(table)
    fields = {field: given[field] for field in update if field in given}
    run = replace(make_run(recipe, name, options), **fields)
    found = find_lr(run, **{word: given[word] for word in test if word in given})
    found.draw(picture, f"{run.name}: learning-rate range test")
    found.write(table)
    print(f"{run.name}: {said(found)}")
    print(f"  curve in {picture} and {table}")
    if found.suggestion is None:
        return FAILED
    if "lr" in options:
        print(f"  train: {shlex.join(command(name, rest, [*test, *out], found.suggestion))}")
    return 0


def check_table(path: Path) -> None:
    """Refuse to write over a file that is no earlier curve, but a table of somebody's.

    Raises:
        RecipeError: it is one.
    """
    if path.is_file():
        with path.open("rb") as file:
            earlier = file.readline(80).strip() == b"lr,loss,smoothed"
        if not earlier:
            raise RecipeError(
                f"The curve's numbers lie beside its picture: {path} is there already and no such "
                "curve; choose another --out"
            )


def said(found: "FoundLR") -> str:
    """Return what is suggested, and why, in a sentence."""
    if found.suggestion is None:
        return f"no lr to suggest: {found.reason}"
    return f"suggested lr {found.suggestion:g}, {found.reason}"


def command(name: str, words: list[str], leave: list[str], lr: float) -> list[str]:
    """Return the command that trains with this lr and the other options given."""
    from steepest.argv import without

    return ["steepest", "train", name, *without([*leave, "lr"], words), "--lr", f"{lr:g}"]

"""`steepest predict`: what a run's model predicts of new rows."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from steepest.argv import read
from steepest.errors import RecipeError
from steepest.recipes import find_recipe, recipe_lines


def main(words: list[str]) -> int:
    """Write the predictions; return the exit code."""
    from steepest.predict import check_out, load_predictor, network_of, write_predictions
    from steepest.train.files.folder import read_options

    asked = read(predict, "predict", words)
    folder, data, out = asked["run"], asked["data"], asked["out"]
    check_out(out, data, force=asked["force"])
    recipe = find_recipe(asked["recipe"] or built_in(folder, read_options(folder)["recipe"]))
    network = network_of(recipe)
    predictor = load_predictor(folder, network, weights=asked["weights"], device=asked["device"])
    predictions, notes = predictor.predict(data)
    write_predictions(predictions, out)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{out}: {len(predictions):,} predictions of {predictor.transform.target.name}")
    return 0


def predict(
    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]],
    data: Path,
    out: Path,
    weights: Literal["best", "last"] = "best",
    recipe: str | None = None,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Predict the target of new rows, which are encoded exactly as the run's own data were.

    Args:
        run: the folder of a run that was trained on a table
        data: the new rows: a table of any kind that can be trained on, with the same columns
        out: where the predictions go: a .csv, .tsv, .parquet, .arrow or .jsonl file
        weights: those of the best validation, or the last ones
        recipe: your recipe's file, if the run is of one
        device: cpu, cuda, ...; chosen if left out
        force: write over a file that is there already
    """


def built_in(folder: Path, name: str) -> str:
    """Return the name of the run's recipe, if it is a built-in one.

    Raises:
        RecipeError: it is a file, which a run's folder must not choose to have executed.
    """
    if name not in recipe_lines():
        raise RecipeError(
            f"The run {folder} is of the recipe {name!r}, which is code: give --recipe {name} if "
            "you trust it"
        )
    return name

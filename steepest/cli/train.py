"""`steepest train`: train what a recipe makes of its options."""

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.cli import FAILED, HELP, SIGINT, SIGNALLED, lines_of
from steepest.errors import RecipeError
from steepest.figures import counted, duration, short
from steepest.recipes import find_recipe, recipe_lines

if TYPE_CHECKING:
    from steepest.train import Report, Run


USAGE = """usage: steepest train RECIPE [options]
       steepest train RECIPE --resume FOLDER [--epochs N]

Train what a recipe makes of its options: a built-in recipe, or a Python file of yours with a
function `run(...) -> Run`. `steepest train RECIPE --help` shows its options and those of every
run.

recipes:
{recipes}

example:
  steepest train line --lr 0.05"""


def main(words: list[str]) -> int:
    """Train what a recipe makes of its options."""
    if not words or words[0] in HELP:
        print(USAGE.format(recipes=lines_of(recipe_lines())))
        return 0
    name, *rest = words
    if name.startswith("-"):
        raise RecipeError(f"The recipe comes before its options: got {name} first")
    recipe = find_recipe(name)
    from steepest.options import kept_options, parse  # torch, from here on

    asked = parse(recipe, name, rest)
    made = make_run(recipe, name, asked.options)
    folder = asked.folder or (Path(made.folder) if made.folder else None)
    made = replace(made, folder=folder or "runs", **asked.training)  # which may refuse
    if folder is None or not asked.resume:
        folder = new_folder(folder, name)
    run = replace(
        made,
        folder=folder,
        resume=asked.resume,
        override=asked.override,
        options=kept_options(name, asked),
    )
    return _train(run, name, folder)


def make_run(recipe: Callable[..., Any], name: str, options: Mapping[str, Any]) -> "Run":
    """Return what a recipe makes of its options, named by its file if it has no name of its own.

    The recipe's notes are printed.

    Raises:
        RecipeError: that is no run.
    """
    from steepest.train import Run
    from steepest.train.resumed.randomness import seed_all

    seed = options.get("seed", 0)
    if isinstance(seed, int):  # before the recipe makes its model; None asks for chance
        seed_all(seed)
    made = recipe(**options)
    if not isinstance(made, Run):
        raise RecipeError(f"A recipe returns a Run: {name} returned {type(made).__name__}")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    return replace(made, name=Path(name).stem) if made.name == Run.name else made


def new_folder(folder: Path | None, name: str) -> Path:
    """Make the folder of a new run: the one asked for, or the next free one under runs/.

    Raises:
        RecipeError: it holds an earlier run, or cannot be made.
    """
    from steepest.lock import LOCK
    from steepest.train.files.folder import CHECKPOINTS, OPTIONS

    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if {path.name for path in folder.iterdir()} - {LOCK, f"{OPTIONS}.tmp"}:
                go_on = f", or go on with --resume {shlex.quote(str(folder))}"
                raise RecipeError(
                    f"A new run has a folder of its own: {folder} is not empty; choose another"
                    + (go_on if (folder / CHECKPOINTS).exists() else "")
                )
            return folder
        for number in count(1):
            free = Path("runs", f"{Path(name).stem}-{number}")
            with suppress(FileExistsError):
                free.mkdir(parents=True)
                return free
    except OSError as error:
        where = folder or Path("runs")
        raise RecipeError(f"The folder {where} cannot be made: {error.strerror}") from None
    raise AssertionError


def summary(report: "Report") -> str:
    """Return what came of a run, in a few lines."""
    final, best = report.final, report.best
    epochs = counted(final["epoch"], "epoch")
    why = "" if report.ended == "epochs" else f", ended by {report.ended}"
    said = ", ".join(_numbers(final, ("loss", "validation_loss")))
    lines = [f"{report.name}: {said} after {epochs} ({_updates(report)}{why})"]
    if measured := _numbers(best, [name for name in best if name.startswith("validation_")]):
        lines.append(f"  best in epoch {best['epoch']}: {', '.join(measured)}")
    if report.result:
        lines.append(f"  {report.result}")
    lines += [f"  {note}" for note in report.notes]
    if report.folder is not None:
        lines.append(f"  files in {report.folder}")
    return "\n".join(lines)


def commands(recipe: str, run: "Run", report: "Report") -> str:
    """Return what a person may type next."""
    from steepest.train.shown.summary import schedule_of

    folder = shlex.quote(str(report.folder))
    told = {}
    if report.ended != "epochs" or "epochs" in (run.options or {}).get("options", {}):
        more = f"--{report.ended} {2 * getattr(run, report.ended)}"  # what ended it
        if schedule_of(run) != "constant":
            more += " --override"  # a longer run may have another
        told["resume"] = f"steepest train {shlex.quote(recipe)} --resume {folder} {more}"
    if run.transform is not None:
        told["predict"] = f"steepest predict {folder} --data new.csv --out predictions.csv"
    told["report"] = f"steepest report {folder}"
    return "\n".join(f"  {name + ':':<8} {command}" for name, command in told.items())


def _numbers(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Return the row's numbers of these names, as people read them."""
    found = {name.replace("_", " "): row[name] for name in names if row.get(name) is not None}
    return [f"{name} {short(value)}" for name, value in found.items()]


def _train(run: "Run", name: str, folder: Path) -> int:
    from steepest.train import RunError, Stopped
    from steepest.train import train as train_run
    from steepest.train.files.folder import CHECKPOINTS

    try:
        report = train_run(run)
    except RunError as error:
        print(f"steepest: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stopped:
        said = f"steepest: {stopped}" if isinstance(stopped, Stopped) else "steepest: stopped"
        if (folder / CHECKPOINTS).exists():
            said += f"; go on with: steepest train {shlex.join([name, '--resume', str(folder)])}"
        print(said, file=sys.stderr)
        return SIGNALLED + (stopped.signal if isinstance(stopped, Stopped) else SIGINT)
    print(summary(report))
    print(commands(name, run, report))
    return 0


def _updates(report: "Report") -> str:
    return f"{report.steps:,} updates, {duration(report.seconds)}"

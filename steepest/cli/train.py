"""`steepest train`: train what a recipe makes of its options."""

import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.cli import FAILED, HELP, SIGINT, SIGNALLED, help_text
from steepest.errors import RecipeError
from steepest.recipes import find_recipe

if TYPE_CHECKING:
    from steepest.train import Report, Run


def main(words: list[str]) -> int:
    """Train what a recipe makes of its options."""
    if not words or words[0] in HELP:
        print(help_text())
        return 0
    name, *rest = words
    if name.startswith("-"):
        raise RecipeError(f"The recipe comes before its options: got {name} first")
    recipe = find_recipe(name)
    from steepest.options import kept_options, parse  # torch, from here on
    from steepest.train import Run
    from steepest.train.randomness import seed_all

    asked = parse(recipe, name, rest)
    seed = asked.options.get("seed", 0)
    if isinstance(seed, int):  # before the recipe makes its model; None asks for chance
        seed_all(seed)
    made = recipe(**asked.options)
    if not isinstance(made, Run):
        raise RecipeError(f"A recipe returns a Run: {name} returned {type(made).__name__}")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    folder = asked.folder or (Path(made.folder) if made.folder else None)
    if folder is None or not asked.resume:
        folder = new_folder(folder, name)
    kept = kept_options(name, asked)
    return _train(replace(made, folder=folder, resume=asked.resume, options=kept), name, folder)


def new_folder(folder: Path | None, name: str) -> Path:
    """Make the folder of a new run: the one asked for, or the next free one under runs/.

    Raises:
        RecipeError: it holds an earlier run, or cannot be made.
    """
    from steepest.train.record import CHECKPOINT

    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                go_on = f", or go on with --resume {shlex.quote(str(folder))}"
                raise RecipeError(
                    f"A new run has a folder of its own: {folder} is not empty; choose another"
                    + (go_on if (folder / CHECKPOINT).exists() else "")
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
    said = f"loss {final['loss']:.4g}"
    if "validation_loss" in final:
        said += f", validation loss {final['validation_loss']:.4g}"
    epochs = "1 epoch" if final["epoch"] == 1 else f"{final['epoch']:,} epochs"
    lines = [f"{report.name}: {said} after {epochs} ({_updates(report)})"]
    if best["epoch"] != final["epoch"] and "validation_loss" in best:
        lines.append(
            f"  best validation loss {best['validation_loss']:.4g} in epoch {best['epoch']}"
        )
    if report.result:
        lines.append(f"  {report.result}")
    if report.folder is not None:
        lines.append(f"  files in {report.folder}")
    return "\n".join(lines)


def _train(run: "Run", name: str, folder: Path) -> int:
    from steepest.train import RunError, Stopped
    from steepest.train import train as train_run
    from steepest.train.record import CHECKPOINT

    try:
        report = train_run(run)
    except RunError as error:
        print(f"steepest: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stopped:
        said = f"steepest: {stopped}" if isinstance(stopped, Stopped) else "steepest: stopped"
        if (folder / CHECKPOINT).exists():
            said += f"; go on with: steepest train {shlex.join([name, '--resume', str(folder)])}"
        print(said, file=sys.stderr)
        return SIGNALLED + (stopped.signal if isinstance(stopped, Stopped) else SIGINT)
    print(summary(report))
    return 0


def _updates(report: "Report") -> str:
    return f"{report.steps:,} updates, {duration(report.seconds)}"


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

"""steepest: train PyTorch models.

usage: steepest train RECIPE [options]           train what a recipe makes
       steepest list                             the optimizers, each with its paper
       steepest show OPTIMIZER [hyperparameters] its formula, its plan and its kernel
       steepest --version

RECIPE is a built-in recipe or a Python file of yours with a function `run(...) -> Run`;
`steepest train RECIPE --help` shows its options.

examples:
  steepest train line --lr 0.05
  steepest train table --data houses.csv --target price --hidden 64 64 --optimizer Adam
  steepest train my_recipe.py --lr 3e-4
  steepest show SGD --momentum 0.9
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from steepest import __version__
from steepest.errors import RecipeError, SteepestError, nearest
from steepest.recipes import find_recipe, recipe_lines

if TYPE_CHECKING:
    from steepest.train import Report, Run

HELP = ("-h", "--help")
FAILED, REFUSED, SIGNALLED = 1, 2, 128
SIGINT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code.

    0 done, 1 the run failed, 2 the input was refused, 130 Ctrl-C, 143 SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _command(words)
    except SteepestError as error:
        print(f"steepest: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("steepest: stopped", file=sys.stderr)
        return SIGNALLED + SIGINT
    except SystemExit as stopped:  # a recipe's help was asked for, or it ends by itself
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        print(stopped.code, file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (Python flushes it at the end)
        return FAILED


def train(words: list[str]) -> int:
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


def list_optimizers(words: list[str]) -> int:
    """Print each optimizer's sentence and paper."""
    if words and words[0] not in HELP:
        raise RecipeError(f"steepest list takes no option: got {words[0]}")
    from steepest.explain import list_text

    print(list_text())
    return 0


def show(words: list[str]) -> int:
    """Print an optimizer's formula, plan and kernel."""
    from steepest.explain import show_text

    if not words or words[0] in HELP:
        print("usage: steepest show OPTIMIZER [--momentum 0.9 ...]")
        return 0
    print(show_text(words[0], words[1:]))
    return 0


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


def help_text() -> str:
    """Return the help of the command line."""
    recipes = recipe_lines()
    width = max(map(len, recipes))
    lines = [f"  {name:<{width}}  {text}" for name, text in recipes.items()]
    return "\n".join([(__doc__ or "").strip(), "", "recipes:", *lines])


def _command(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in HELP:
        print(help_text())
    elif first == "--version":
        print(f"steepest {__version__}")
    elif first in COMMANDS:
        return COMMANDS[first](words[1:])
    else:
        near = nearest(first, [*COMMANDS, "--help", "--version"])
        raise RecipeError(f"steepest has no command {first}{near}: see steepest --help")
    return 0


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


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "list": list_optimizers,
    "show": show,
}

if __name__ == "__main__":
    sys.exit(main())

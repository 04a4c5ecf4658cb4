"""steepest: train PyTorch models.

usage: steepest COMMAND ...

{commands}

RECIPE is a built-in recipe or a Python file of yours with a function `run(...) -> Run`;
`steepest COMMAND --help` shows a command's options, `steepest train RECIPE --help` a recipe's.

recipes:
{recipes}

examples:
  steepest train line --lr 0.05
  steepest train table --data houses.csv --target price --hidden 64 64 --optimizer Adam
  steepest train my_recipe.py --lr 3e-4
  steepest show SGD --momentum 0.9
"""

import importlib
import os
import sys
from collections.abc import Sequence

from steepest import __version__
from steepest.errors import RecipeError, SteepestError, nearest
from steepest.recipes import recipe_lines

HELP = ("-h", "--help")
FAILED, REFUSED, SIGNALLED = 1, 2, 128
SIGINT = 2

COMMANDS = {
    "new": ("new", "FILE.py [--from RECIPE]", "write the start of a recipe of your own"),
    "train": ("train", "RECIPE [options]", "train what a recipe makes"),
    "find-lr": ("find_lr", "RECIPE [options]", "the learning rate to take, by a range test"),
    "check": ("check", "SCRIPT.py [its arguments]", "name the mistakes in a training script"),
    "predict": ("predict", "RUN --data NEW --out FILE", "what a run's model predicts of new rows"),
    "list": ("optimizers", "", "the optimizers, each with its paper"),
    "runs": ("runs", "[FOLDER]", "the runs of a folder as a table"),
    "report": ("report", "RUN [RUN ...]", "one HTML page about one run or several"),
    "show": ("show", "OPTIMIZER [hyperparameters]", "its formula, its plan and its kernel"),
}
"""Each command's module in this package, whose `main` does it, its words and what it does."""


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


def help_text() -> str:
    """Return the help of the command line."""
    commands = {
        f"steepest {name} {words}".strip(): told for name, (_, words, told) in COMMANDS.items()
    }
    commands["steepest --version"] = "its version"
    return (
        (__doc__ or "")
        .strip()
        .format(commands=lines_of(commands), recipes=lines_of(recipe_lines()))
    )


def lines_of(told: dict[str, str]) -> str:
    """Return names and what is told of each, in two columns."""
    width = max(map(len, told))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in told.items())


def _command(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in HELP:
        print(help_text())
    elif first == "--version":
        print(f"steepest {__version__}")
    elif first in COMMANDS:
        # Imported only now, as most commands need torch, which takes its time.
        command = importlib.import_module(f"steepest.cli.{COMMANDS[first][0]}")
        return command.main(words[1:])
    else:
        near = nearest(first, [*COMMANDS, "--help", "--version"])
        raise RecipeError(f"There is no command {first}{near}: see steepest --help")
    return 0

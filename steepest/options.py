"""A recipe's signature -> command line options; a resumed run's own, and what may change."""

import inspect
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from steepest.argv import groups, read, without
from steepest.errors import RecipeError

Option = tuple[Any, str]
"""The kind and the help of an option that is None, False or () when it is left out."""

PLACE: dict[str, Option] = {
    "folder": (Path | None, "where the run leaves its files; left out, a new folder under runs/"),
    "resume": (Path | None, "folder of an earlier run to go on with; only its end may change"),
    "override": (bool, "let other options of a resumed run change, too"),
}
"""Options of the command line."""

TRAINING: dict[str, Option] = {
    "steps": (int | None, "the most updates"),
    "seconds": (float | None, "the longest time, in seconds"),
    "patience": (int | None, "end after so many validations that were no better than the best"),
    "monitor": (str | None, "what the best weights and patience go by: loss or a metric's name"),
    "validate_steps": (int | None, "validate every so many updates instead of every epoch"),
    "clip_norm": (float | None, "norm above which gradients are scaled down"),
    "accumulate": (int | None, "batches that make one update"),
    "precision": (
        Literal["float32", "bfloat16", "float16"] | None,
        "of forward and backward: bfloat16 and float16 mean automatic mixed precision",
    ),
    "compile": (Literal["step"] | None, "step: one compiled graph for a whole update"),
    "deterministic": (bool, "refuse operations that may give other numbers the next time"),
    "threads": (int | None, "CPU threads; left out, one for a small model"),
    "checkpoint_seconds": (float | None, "seconds between two checkpoints, 60 if left out"),
    "log_steps": (int | None, "updates between two rows of the metrics, 100 if left out"),
    "log_to": (tuple[str, ...], "where metrics go, too: tensorboard, mlflow, wandb"),
}
"""Fields of every run that the command line can set, unless the recipe has them itself."""

EVERY = {**TRAINING, **PLACE}

ENDS = ("epochs", "steps", "seconds", "patience", "checkpoint_seconds", "log_to", "threads")
"""What a resumed run may change without changing its numbers up to there."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line asks of a recipe.

    Attributes:
        options: the recipe's arguments, all of them.
        training: fields of the run that are to be set.
        arguments: the words of the command line that gave them, in a resumed run those of the
            first one and what was changed since.
        folder: the folder asked for; None for a new one.
        resume: whether that folder holds a run to go on with.
        override: whether other options than the run had are meant.
    """

    options: dict[str, Any]
    training: dict[str, Any]
    arguments: list[str]
    folder: Path | None
    resume: bool
    override: bool = False


def parse(recipe: Callable[..., Any], name: str, arguments: Sequence[str]) -> Asked:
    """Return what the command line asks of the recipe; print its help if that is asked.

    Raises:
        RecipeError: an option is unknown, missing or of the wrong type, or differs from the run
            to be resumed.
    """
    signature, command = _signature(recipe), f"train {name}"
    earlier = _resumed(arguments)
    if earlier is None:
        given = read(recipe, command, arguments, signature)
        words = without(PLACE, arguments)
        return _asked(recipe, given, words, given["folder"])
    from steepest.train.files.folder import read_options  # torch, which takes its time

    kept = read_options(earlier)
    if not _same_recipe(kept["recipe"], name):
        raise RecipeError(
            f"A run resumes with its own recipe: {earlier} is of {kept['recipe']}, got {name}"
        )
    words = kept["arguments"]
    before = read(recipe, command, words, signature)
    now = read(recipe, command, [*words, *arguments], signature)
    _check_unchanged(before, now, earlier)
    new = without(PLACE, arguments)
    words = [*without({option for option, _ in groups(new)}, words), *new]
    return replace(_asked(recipe, now, words, earlier), resume=True, override=now["override"])


def _asked(
    recipe: Callable[..., Any], given: Mapping[str, Any], words: list[str], folder: Path | None
) -> Asked:
    options, training = _parted(recipe, given, TRAINING)
    return Asked(options=options, training=training, arguments=words, folder=folder, resume=False)


def parse_beside(
    recipe: Callable[..., Any], command: str, arguments: Sequence[str], others: Mapping[str, Option]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the words give for a recipe's options, and for others beside them.

    Raises:
        RecipeError: an option is unknown, missing or of the wrong type.
    """
    given = read(recipe, command, arguments, _signature(recipe, others))
    return _parted(recipe, given, others)


def _parted(
    recipe: Callable[..., Any], given: Mapping[str, Any], others: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    own = inspect.signature(recipe).parameters
    options = {name: value for name, value in given.items() if name in own}
    asked = {name: given[name] for name in others if name not in own}
    left_out = (None, False, ())  # told apart by type, too: a 0 was given
    return options, {
        name: value
        for name, value in asked.items()
        if not any(type(value) is type(nothing) and value == nothing for nothing in left_out)
    }


def kept_options(name: str, asked: Asked) -> dict[str, Any]:
    """Return recipe, command line and options, which the folder keeps for `--resume`."""
    import torch

    from steepest import __version__

    return {
        "recipe": name,
        "arguments": asked.arguments,
        "options": {**asked.options, **asked.training},
        "steepest": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _signature(
    recipe: Callable[..., Any], others: Mapping[str, Option] = EVERY
) -> inspect.Signature:
    """Return the recipe's options and others beside them; a bare one has its default's type.

    Raises:
        RecipeError: it takes `*args` or `**kwargs`, or an option that the command line has.
    """
    import tyro

    parameters = []
    for parameter in inspect.signature(recipe, eval_str=True).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RecipeError(
                f"A recipe names its options one by one: got {parameter}; write them out"
            )
        if parameter.name in PLACE:
            raise RecipeError(f"{parameter.name} is the command line's own option: rename yours")
        bare = parameter.annotation is parameter.empty
        kind = _kind(parameter.default) if bare else parameter.annotation
        if parameter.default is None or parameter.default == ():  # which is to leave it out
            kind = Annotated[kind, tyro.conf.arg(metavar=_metavar(kind), help_behavior_hint="")]
        parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kind))
    own = {parameter.name for parameter in parameters}
    for name, (kind, text) in others.items():
        if name not in own:
            usual = False if kind is bool else () if kind == tuple[str, ...] else None
            shown = tyro.conf.arg(help=text, help_behavior_hint="", metavar=_metavar(kind))
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=usual,
                    annotation=Annotated[kind, shown],
                )
            )
    return inspect.Signature(parameters)


def _metavar(kind: Any) -> str | None:
    """Return what stands for an option's value in the help: without None, which is to leave it."""
    plain = [part for part in get_args(kind) if part not in (type(None), ...)]
    if not plain:
        return None
    words = [str(word) for word in get_args(plain[0])] or [plain[0].__name__.upper()]
    told = "{" + ",".join(words) + "}" if len(words) > 1 else words[0]
    return f"{told} ..." if get_origin(kind) is tuple else told


def _kind(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return str
    return str | None if default is None else type(default)


def _resumed(arguments: Sequence[str]) -> Path | None:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == "--resume" and following:
            return Path(following)
        if word.startswith("--resume="):
            return Path(word.removeprefix("--resume="))
    return None


def _same_recipe(kept: str, name: str) -> bool:
    """Tell whether both are one built-in recipe, or paths of one file."""
    files = kept.endswith(".py") and name.endswith(".py")
    return Path(kept).resolve() == Path(name).resolve() if files else kept == name


def _check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    if now["folder"] is not None:
        raise RecipeError(f"A resumed run stays in its folder, {folder}: leave --folder out")
    for name, value in now.items():
        if value != before[name] and not (now["override"] or name in (*ENDS, *PLACE)):
            raise RecipeError(
                f"A run resumes with the options that it had: {name} was {before[name]} and is "
                f"now {value}; give the same, begin a new run, or add --override"
            )

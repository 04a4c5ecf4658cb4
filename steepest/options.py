"""A recipe's signature -> command line options; the folder where a run's options are kept."""

import contextlib
import inspect
import io
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from steepest.errors import RecipeError, nearest
from steepest.train.record import OPTIONS

SHARED = {
    "folder": "where the run leaves its files; left out, a new folder under runs/",
    "resume": "folder of an earlier run to go on with; only epochs may change",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line asks of a recipe.

    Attributes:
        options: the recipe's arguments, all of them.
        arguments: the words of the command line that gave them, in a resumed run those of the
            first one with the last `--epochs`.
        folder: the folder asked for; None for a new one.
        resume: whether that folder holds a run to go on with.
    """

    options: dict[str, Any]
    arguments: list[str]
    folder: Path | None
    resume: bool


def parse(recipe: Callable[..., Any], name: str, arguments: Sequence[str]) -> Asked:
    """Return what the command line asks of the recipe; print its help if that is asked.

    Raises:
        RecipeError: an option is unknown, missing or of the wrong type, or differs from the run
            to be resumed.
    """
    signature, program = _signature(recipe), f"steepest train {name}"
    earlier = _resumed(arguments)
    if earlier is None:
        options = read(recipe, program, arguments, signature)
        folder = options.pop("folder")
        options.pop("resume")
        words = _without(SHARED, arguments)
        return Asked(options=options, arguments=words, folder=folder, resume=False)
    kept = read_options(earlier)
    if not _same_recipe(kept["recipe"], name):
        raise RecipeError(
            f"A run resumes with its own recipe: {earlier} is of {kept['recipe']}, got {name}"
        )
    words = kept["arguments"]
    before = read(recipe, program, words, signature)
    now = read(recipe, program, [*words, *arguments], signature)
    _check_unchanged(before, now, earlier)
    if epochs := _only("epochs", arguments):
        words = [*_without(("epochs",), words), *epochs]
    options = {key: value for key, value in now.items() if key not in SHARED}
    return Asked(options=options, arguments=words, folder=earlier, resume=True)


def read_options(folder: Path) -> dict[str, Any]:
    """Return what the earlier run kept in its folder.

    Raises:
        RecipeError: there is no such file, or it is not whole.
    """
    path = folder / OPTIONS
    try:
        kept = json.loads(path.read_text("utf-8"))
        return {"recipe": str(kept["recipe"]), "arguments": [str(a) for a in kept["arguments"]]}
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError(
            f"A run resumes from the folder that it left: {folder} has no readable {OPTIONS}"
        ) from None


def kept_options(name: str, asked: Asked) -> dict[str, Any]:
    """Return recipe, command line and options, which the folder keeps for `--resume`."""
    import torch

    from steepest import __version__

    return {
        "recipe": name,
        "arguments": asked.arguments,
        "options": asked.options,
        "steepest": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _signature(recipe: Callable[..., Any]) -> inspect.Signature:
    """Return the recipe's options and the shared ones; a bare one has its default's type.

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
        if parameter.name in SHARED:
            raise RecipeError(f"{parameter.name} is the command line's own option: rename yours")
        bare = parameter.annotation is parameter.empty
        kind = _kind(parameter.default) if bare else parameter.annotation
        parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kind))
    for name, text in SHARED.items():
        kind = Annotated[Path | None, tyro.conf.arg(help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        )
    return inspect.Signature(parameters)


def _kind(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return str
    return str | None if default is None else type(default)


def read(
    function: Callable[..., Any],
    program: str,
    arguments: Sequence[str],
    signature: inspect.Signature | None = None,
) -> dict[str, Any]:
    """Return what the words give for a function's parameters; print help if that is asked.

    Names, types, defaults and help are those of its signature (or of `signature`) and docstring;
    tyro reads the words, and what it says of a mistake becomes one sentence.

    Raises:
        RecipeError: an option is unknown, missing or of the wrong type.
    """
    import tyro

    signature = signature or inspect.signature(function, eval_str=True)

    def options(**given: Any) -> dict[str, Any]:
        return given

    options.__signature__ = signature  # type: ignore[attr-defined]
    options.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    options.__doc__ = function.__doc__
    if not {"-h", "--help"} & set(arguments):
        _check_names(signature, program, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=program, args=list(arguments))
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise RecipeError(f"{_sentence(said.getvalue())}; see {program} --help") from None


def _check_names(signature: inspect.Signature, program: str, arguments: Sequence[str]) -> None:
    known = {
        "--" + p.name.replace("_", "-"): p
        for p in signature.parameters.values()
        if not _is_positional(p.annotation)
    }
    negated = {"--no-" + name[2:] for name, p in known.items() if p.annotation is bool}
    given = [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    for name in given:
        if name not in known and name not in negated:
            near = nearest(name, [*known, *negated])
            raise RecipeError(f"{program} has no option {name}{near}: they are {', '.join(known)}")
    needed = [name for name, p in known.items() if p.default is p.empty and name not in given]
    if needed:
        raise RecipeError(f"{program} needs {' and '.join(needed)}: see {program} --help")


def _is_positional(annotation: Any) -> bool:
    """Tell whether tyro reads the parameter from the words without a name."""
    import tyro

    return tyro.conf.Positional in getattr(annotation, "__metadata__", ())


def _sentence(box: str) -> str:
    """Return the first part of tyro's box as plain text."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    text = []
    for line in lines[1:]:
        if line.startswith("──"):
            break
        text.append(line)
    return re.sub(r"\s+", " ", " ".join(text)).strip().rstrip(".") or "The command line is wrong"


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


def _without(names: Iterable[str], arguments: Sequence[str]) -> list[str]:
    """Return the words but for these options and their values."""
    groups = _groups(arguments)
    return [word for name, words in groups if name not in names for word in words]


def _only(option: str, arguments: Sequence[str]) -> list[str]:
    """Return the words that give the option's last value."""
    return next((words for name, words in reversed(_groups(arguments)) if name == option), [])


def _groups(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each option's name, and it with the words that follow it."""
    groups: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append((word.partition("=")[0].removeprefix("--"), []))
        groups[-1][1].append(word)
    return groups


def _check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    if now["folder"] is not None:
        raise RecipeError(f"A resumed run stays in its folder, {folder}: leave --folder out")
    for name, value in now.items():
        if name not in ("epochs", "resume") and value != before[name]:
            raise RecipeError(
                f"A run resumes with the options that it had: {name} was {before[name]} and is "
                f"now {value}; give the same, or begin a new run"
            )

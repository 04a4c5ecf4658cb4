"""A command line's words -> what they give for a function's parameters."""

import contextlib
import inspect
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from steepest.errors import RecipeError, nearest


def read(
    function: Callable[..., Any],
    command: str,
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
        _check_names(signature, command, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=f"steepest {command}", args=list(arguments))
    except SystemExit as stopped:
        if not stopped.code:
            raise
        reason = _sentence(said.getvalue())
        if reason.startswith("Missing from"):
            reason = f"{command} needs {_listed(_positionals(signature))}"
        raise RecipeError(f"{reason}; see steepest {command} --help") from None


def _check_names(signature: inspect.Signature, command: str, arguments: Sequence[str]) -> None:
    known = {
        "--" + (_told(p, "name") or p.name).replace("_", "-"): p
        for p in signature.parameters.values()
        if not _is_positional(p.annotation)
    }
    negated = {"--no-" + name[2:] for name, p in known.items() if _is_flag(p.annotation)}
    given = [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    for name in given:
        if name not in known and name not in negated:
            near = nearest(name, [*known, *negated])
            raise RecipeError(f"{command} has no option {name}{near}: they are {', '.join(known)}")
    needed = [name for name, p in known.items() if p.default is p.empty and name not in given]
    if needed:
        all_needed = [*([] if arguments else _positionals(signature)), *needed]
        raise RecipeError(f"{command} needs {_listed(all_needed)}; see steepest {command} --help")


def _positionals(signature: inspect.Signature) -> list[str]:
    """Return what the help calls the parameters without a name that have no default."""
    wanted = [p for p in signature.parameters.values() if p.default is p.empty]
    return [_told(p, "metavar") or p.name.upper() for p in wanted if _is_positional(p.annotation)]


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _told(parameter: inspect.Parameter, what: str) -> str | None:
    """Return the `name` or `metavar` that a parameter has for tyro, if it has one."""
    told = getattr(parameter.annotation, "__metadata__", ())
    return next((word for part in told if isinstance(word := getattr(part, what, None), str)), None)


def _is_flag(annotation: Any) -> bool:
    """Tell whether tyro has a `--no-` for the parameter."""
    return getattr(annotation, "__origin__", annotation) is bool


def _is_positional(annotation: Any) -> bool:
    """Tell whether tyro reads the parameter from the words without a name."""
    import tyro

    return tyro.conf.Positional in getattr(annotation, "__metadata__", ())


def _sentence(box: str) -> str:
    """Return the first part of tyro's box as plain text, below its title."""
    text: list[str] = []
    for line in box.splitlines()[1:]:
        said = line.strip("│╭╮╰╯ ")
        if not set(said) <= {*"─-"}:
            text.append(said)
        elif text:  # the end of a part; a box in ASCII has one below its title
            break
    return re.sub(r"\s+", " ", " ".join(text)).strip().rstrip(".") or "The command line is wrong"


def without(names: Iterable[str], arguments: Sequence[str]) -> list[str]:
    """Return the words but for these options and their values."""
    return [word for name, words in groups(arguments) if name not in names for word in words]


def groups(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each option's name, and it with the words that follow it."""
    found: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--") or not found:
            found.append((word.partition("=")[0].removeprefix("--"), []))
        found[-1][1].append(word)
    return found

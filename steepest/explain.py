"""What an optimizer does, for people: its sentence, paper, formula, plan and kernel."""

import ast
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from steepest import optim
from steepest.errors import RecipeError, nearest
from steepest.formula import Plan, plan
from steepest.kernels.cpu import source
from steepest.kernels.rows import is_lazy
from steepest.optim.named import optimizer_names

URL = re.compile(r"https?://\S+")


def list_text() -> str:
    """Return a sentence and a paper for each optimizer."""
    return "\n".join(_entry(name) for name in optimizer_names())


def show_text(name: str, words: Sequence[str] = ()) -> str:
    """Return formula, plan and kernel of an optimizer with hyperparameters `--name value ...`.

    Raises:
        RecipeError: there is no such optimizer, or a word is no option.
        HyperparameterError: a hyperparameter is unknown or out of bounds.
    """
    kind = _named(name)
    try:
        optimizer = kind([torch.zeros(4, 3)], **_hyperparameters(words))
    except TypeError as error:
        raise RecipeError(str(error)) from None
    parts = _parts(kind, optimizer) if optimizer.formula else _text(kind)
    return "\n\n".join(
        f"# {title}\n" + "\n".join(line for line in lines if line).rstrip()
        for title, lines in parts.items()
    )


def _parts(kind: type, optimizer: Any) -> Mapping[str, Sequence[str]]:
    """Return titles and lines for a formula."""
    made = planned(optimizer)
    return {
        "formula": (f"{_doc(kind)}\n", optimizer.formula.source),
        "plan: decided": tuple(f"{text}  ->  {answer}" for text, answer in made.decisions)
        or ("nothing to decide",),
        "plan: once per step, on the host, in float64": (made.host_source,),
        "plan: per element": (
            *(f"{target} = {ast.unparse(expr)}" for target, expr in made.lines),
            *(f"store {target} = {ast.unparse(expr)}" for target, expr in made.outputs.items()),
        ),
    } | (
        {"kernel": ("none: the formula runs on the rows of a sparse gradient, gathered by torch",)}
        if is_lazy(optimizer.formula)
        else {title: (text,) for title, text in kernels(made)}
    )


def planned(optimizer: Any) -> Plan:
    """Return what an optimizer over one matrix does at its second step."""
    (group,) = optimizer.param_groups
    return plan(optimizer.formula, group, 2, frozenset(), {"p": group["params"][0]})


def kernels(made: Plan) -> list[tuple[str, str]]:
    """Return title and text of every stage of a plan, and of torch's lines between them."""
    found = []
    for k, stage in enumerate(made.stages):
        of = f" {k + 1} of {len(made.stages)}" if len(made.stages) > 1 else ""
        if stage.torch is not None:
            found.append((f"torch, before kernel{of}", stage.torch_source))
        if not stage.idle:
            found.append((f"kernel{of} (float32, CPU)", source(made, torch.float32, k)))
    return found


def _text(kind: type) -> Mapping[str, Sequence[str]]:
    """Return titles and lines for an optimizer that asks for the loss again: no formula says it."""
    return {"no formula, but a step of its own": (f"{_doc(kind)}\n", inspect.getdoc(kind) or "")}


def _entry(name: str) -> str:
    """Return the first sentence of the optimizer's file and its first source."""
    text = _doc(getattr(optim, name))
    title, _, rest = text.partition("\n\n")
    first = URL.search(rest)
    paper = " ".join(rest[: first.end()].split()) if first else ""
    sentence = " ".join(title.split()).partition(": ")[2] or title
    wide = max(map(len, optimizer_names())) + 1
    return f"{name:<{wide}} {sentence}\n{'':<{wide}} {paper}".rstrip()


def _doc(kind: type) -> str:
    """Return the docstring of the optimizer's file."""
    return inspect.getdoc(sys.modules[kind.__module__]) or ""


def _named(name: str) -> Any:
    names = optimizer_names()
    if name in names:
        return getattr(optim, name)
    raise RecipeError(
        f"An optimizer is one of {', '.join(names)}: got {name}{nearest(name, names)}"
    )


def _hyperparameters(words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    left = [part for word in words for part in (word.split("=", 1) if "=" in word else [word])]
    while left:
        name = left.pop(0)
        if not name.startswith("--"):
            raise RecipeError(f"A hyperparameter is given as --momentum 0.9: got {name}")
        value = left.pop(0) if left and not left[0].startswith("--") else "True"
        try:
            given[name[2:].replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise RecipeError(f"{name} is a number, True, False or a tuple: got {value}") from None
    return given

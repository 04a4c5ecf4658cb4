"""Hyperparameters: the signature that a formula gives its optimizer, and their bounds.

The bounds are torch's, checked here once for every optimizer and every param group.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from steepest.errors import HyperparameterError
from steepest.formula.parse import REQUIRED, Formula

Check = Callable[[Any], bool]

BOUNDS: dict[str, tuple[str, Check]] = {
    "lr": ("at least 0", lambda x: 0 <= x < math.inf),
    "eps": ("at least 0", lambda x: 0 <= x < math.inf),
    "weight_decay": ("at least 0", lambda x: 0 <= x < math.inf),
    "betas": ("numbers from 0 up to, not including, 1", lambda x: all(0 <= b < 1 for b in x)),
    "momentum": ("at least 0", lambda x: 0 <= x < math.inf),
    "alpha": ("at least 0", lambda x: 0 <= x < math.inf),
    "rho": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "lr_decay": ("at least 0", lambda x: 0 <= x < math.inf),
    "initial_accumulator_value": ("at least 0", lambda x: 0 <= x < math.inf),
}
"""What a hyperparameter of this name must be, wherever it occurs."""

OPTIONS = {
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
"""torch's options of execution, with their defaults."""


def signature(
    formula: Formula, defaults: Mapping[str, Any], fixed: Iterable[str], options: Iterable[str]
) -> inspect.Signature:
    """Return the constructor's signature: params, the hyperparameters, then the options."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", kind)]
    for name, default in {**formula.hyperparameters, **defaults}.items():
        if name not in fixed:
            empty = inspect.Parameter.empty if default is REQUIRED else default
            parameters.append(inspect.Parameter(name, kind, default=empty))
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=OPTIONS.get(name))
        for name in (*options, "clip_norm")
    ]
    return inspect.Signature(parameters)


def own_signature(cls: type) -> inspect.Signature:
    """Return the signature of a class with a constructor of its own."""
    whole = inspect.signature(cls.__init__)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


def bind(
    name: str, known: inspect.Signature, args: tuple[Any, ...], given: dict[str, Any]
) -> dict[str, Any]:
    """Return every argument of a constructor by name, defaults filled in.

    Raises:
        TypeError: an argument is missing or unknown (the nearest known one is named).
    """
    for word in given.keys() - known.parameters.keys():
        near = difflib.get_close_matches(word, known.parameters, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known.parameters)}"
        raise TypeError(f"{name}() got an unknown argument {word!r}; {hint}")
    try:
        bound = known.bind(*args, **given)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}") from None
    bound.apply_defaults()
    return bound.arguments


def check(name: str, group: Mapping[str, Any]) -> None:
    """Refuse a group whose hyperparameters or options are out of bounds.

    Raises:
        HyperparameterError: says which, its rule and what was given.
    """
    for word, value in group.items():
        if word in BOUNDS:
            rule, holds = BOUNDS[word]
            if not _holds(holds, value):
                raise HyperparameterError(f"{name}: {word} must be {rule}, not {value!r}")
    if group.get("nesterov") and not (group.get("momentum", 0) > 0 and group["dampening"] == 0):
        raise HyperparameterError(
            f"{name}: nesterov needs momentum > 0 and dampening = 0, not momentum="
            f"{group['momentum']} and dampening={group['dampening']}"
        )
    if group.get("fused") and (group.get("foreach") or group.get("differentiable")):
        other = "foreach" if group.get("foreach") else "differentiable"
        raise HyperparameterError(f"{name}: fused=True and {other}=True exclude each other")
    if group.get("capturable"):
        raise HyperparameterError(
            f"{name}: capturable=True cannot be honoured: the scalars of a step are computed on "
            "the host, so a captured graph would repeat the first step's; leave it False"
        )


def _holds(rule: Check, value: Any) -> bool:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return False
    try:
        return bool(rule(value))
    except TypeError:
        return False


def check_known(name: str, group: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a group's key that is a slip of a known one; other keys are the user's own.

    Raises:
        HyperparameterError: names the key and the known one.
    """
    words = [*known, "params", "param_names"]
    for word in group:
        near = difflib.get_close_matches(word, words, n=1, cutoff=0.85)
        if word not in words and near:
            raise HyperparameterError(
                f"{name}: a param group has no {word!r}; did you mean {near[0]!r}?"
            )

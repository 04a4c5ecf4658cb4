"""Hyperparameters: the signature that a formula gives its optimizer, and their bounds.

The bounds are torch's, checked here once for every optimizer and every param group.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from steepest.errors import FormulaError, HyperparameterError, nearest
from steepest.formula.extras import AVERAGE, COUNT
from steepest.formula.parse import REQUIRED, Formula
from steepest.optim.around import AROUND

Check = Callable[[Any], bool]


class Rule(NamedTuple):
    """What serves a param group: a class's formula, with what its groups start from."""

    name: str
    formula: Formula
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]


BOUNDS: dict[str, tuple[str, Check]] = {
    "lr": ("at least 0", lambda x: x >= 0),
    "eps": ("at least 0", lambda x: _several_at_least_0(x) if isinstance(x, SEVERAL) else x >= 0),
    "weight_decay": ("at least 0", lambda x: x >= 0),
    "betas": ("numbers from 0 up to, not including, 1", lambda x: all(0 <= b < 1 for b in x)),
    "momentum": ("at least 0", lambda x: x >= 0),
    "alpha": ("at least 0", lambda x: x >= 0),
    "dampening": ("a number", lambda x: abs(x) >= 0),
    "rho": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "lr_decay": ("at least 0", lambda x: x >= 0),
    "initial_accumulator_value": ("at least 0", lambda x: x >= 0),
    "etas": ("numbers, one between 0 and 1 and one above 1", lambda x: 0 < x[0] < 1 < x[1]),
    "step_sizes": ("numbers from 0 up, the smaller one first", lambda x: 0 <= x[0] <= x[1]),
    "alpha_warmup": ("None or above 0", lambda x: x is None or x > 0),
    "beta3_warmup": ("None or above 0", lambda x: x is None or x > 0),
    "momentum_decay": ("at least 0", lambda x: x >= 0),
    "trust_coefficient": ("at least 0", lambda x: x >= 0),
    "warmup_steps": ("at least 0", lambda x: x >= 0),
    "beta3": ("None or from 0 up to, not including, 1", lambda x: x is None or 0 <= x < 1),
    "d0": ("above 0", lambda x: x > 0),
    "growth_rate": ("above 1", lambda x: x > 1),
    "adjust_lr_fn": (
        "None, 'original' or 'match_rms_adamw'",
        lambda x: x in (None, "original", "match_rms_adamw"),
    ),
    "beta2_decay": ("at most 0", lambda x: x <= 0),
    "d": ("at least 1", lambda x: x >= 1),
    "ns_coefficients": ("numbers", lambda x: all(abs(c) >= 0 for c in x)),
    "shampoo_beta": ("None or from 0 up to, not including, 1", lambda x: x is None or 0 <= x < 1),
    "precondition_frequency": ("at least 1", lambda x: x >= 1),
    "max_precondition_dim": ("at least 0", lambda x: x >= 0),
    "ns_steps": ("a whole number from 0 to 99", lambda x: x in range(100)),
}
"""What a hyperparameter of this name must be, unless its formula's own default is not so."""

NO_BOUND: tuple[str, Check] = ("", lambda x: True)

SEVERAL = (tuple, list)


def _several_at_least_0(x: Iterable[float | None]) -> bool:
    """Tell whether no number of several is below 0; one that is None is worked out later."""
    return all(part is None or part >= 0 for part in x)


OPTIONS: dict[str, bool | None] = {
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
"""torch's options of execution, with their defaults."""

EXECUTION = ("foreach", "capturable", "differentiable", "fused")
"""The options that say how to run; the objective's own is `maximize`."""

LAYOUT = ("*", *OPTIONS)
"""What follows the hyperparameters in a constructor; `*` begins what must be named."""


def signature(
    formula: Formula, defaults: Mapping[str, Any], fixed: Iterable[str], options: Iterable[str]
) -> inspect.Signature:
    """Return the constructor's signature: params, the hyperparameters, then the options."""
    taken = [n for n in ("params", *AROUND, *OPTIONS) if n in formula.hyperparameters]
    if taken:
        raise FormulaError(
            f"{formula.name}: a hyperparameter may not be called {taken[0]!r}, which every "
            "optimizer takes; give it another name"
        )
    if taken := [name for name in (AVERAGE, COUNT) if name in formula.states]:
        raise FormulaError(
            f"{formula.name}: a state may not be called {taken[0]!r}, by which an optimizer keeps "
            "the average of p; give it another name"
        )
    values = {**OPTIONS, **formula.hyperparameters, **defaults, **AROUND}
    known = [name for name in formula.hyperparameters if name not in (*fixed, *options)]
    known.sort(key=lambda name: values[name] is not REQUIRED)  # those without a default go first
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", kind)]
    extra = [name for name in ("*", "fused") if name not in options]
    for name in (*known, *options, *extra, *AROUND):
        if name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        default = inspect.Parameter.empty if values[name] is REQUIRED else values[name]
        parameters.append(inspect.Parameter(name, kind, default=default))
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
        hint = nearest(word, known.parameters, 0.6) or f"; known are {', '.join(known.parameters)}"
        raise TypeError(f"{name}() got an unknown argument {word!r}{hint}")
    try:
        bound = known.bind(*args, **given)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}") from None
    bound.apply_defaults()
    return bound.arguments


def check(name: str, group: Mapping[str, Any], formula: Formula) -> None:
    """Refuse a group whose hyperparameters or options are out of bounds.

    Raises:
        HyperparameterError: says which, its rule and what was given.
    """
    for word, default in formula.hyperparameters.items():
        value, (rule, holds) = group[word], BOUNDS.get(word, NO_BOUND)
        if default is not REQUIRED and not _holds(holds, default):
            rule, holds = NO_BOUND  # a user's own meaning of the name
        if isinstance(default, tuple):
            rule = f"{len(default)} {rule if 'numbers' in rule else f'values {rule}'.rstrip()}"
        if not _is_alike(value, default) or not _holds(holds, value):
            raise HyperparameterError(f"{name}: {word} must be {rule}, not {value!r}")
    _check_nesterov(name, group)
    _check_execution(name, group)


def _check_nesterov(name: str, group: Mapping[str, Any]) -> None:
    if not group.get("nesterov") or not {"momentum", "dampening"} <= group.keys():
        return
    if not group["momentum"] > 0 or group["dampening"] != 0:
        raise HyperparameterError(
            f"{name}: nesterov needs momentum > 0 and dampening = 0, not momentum="
            f"{group['momentum']} and dampening={group['dampening']}"
        )


def _check_execution(name: str, group: Mapping[str, Any]) -> None:
    """Refuse options of execution that exclude each other or cannot be honoured."""
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
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_alike(value: Any, default: Any) -> bool:
    """Tell whether a value has as many parts as the default: none, where that is a number."""
    if not isinstance(default, tuple):
        return not (isinstance(default, int | float) and isinstance(value, SEVERAL))
    return isinstance(value, tuple | list) and len(value) == len(default)


def check_known(name: str, group: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a group's key that is a slip of a known one; other keys are the user's own.

    Raises:
        HyperparameterError: names the key and the known one.
    """
    for word in group.keys() & AROUND.keys():
        raise HyperparameterError(
            f"{name}: {word} is of all groups together; give it to {name}, not to a param group"
        )
    if isinstance(kind := group.get("optimizer"), type):
        raise HyperparameterError(
            f"{name}: a param group names {kind.__name__} as its optimizer, but {name} has one "
            "rule for all groups; give the groups to optim.Mixed"
        )
    words = [*known, "params", "param_names"]
    for word in group:
        if word not in words and (hint := nearest(word, words, 0.85)):
            raise HyperparameterError(f"{name}: a param group has no {word!r}{hint}")


def defaults(known: inspect.Signature) -> dict[str, Any]:
    """Return what a param group starts from, by a class's signature."""
    return {
        name: parameter.default
        for name, parameter in known.parameters.items()
        if name not in ("params", *AROUND) and parameter.default is not parameter.empty
    }

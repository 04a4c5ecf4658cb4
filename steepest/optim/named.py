"""An optimizer by its name, as a command line gives it, for a model and the loop that trains it."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from steepest import optim
from steepest.errors import RecipeError, nearest

UNFIT = {
    "LBFGS": "evaluates the loss several times in a step, for which the loop gives it no closure",
    "Muon": "serves matrices alone, and this model has biases",
    "SparseAdam": "takes sparse gradients alone, and those of this model are dense",
}
"""The optimizers that cannot train any dense model in the loop, and why."""


def named_optimizer(
    name: str,
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
    lr: float,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
) -> optim.Optimizer:
    """Return the optimizer of that name; a `weight_decay` of None leaves it its own.

    Raises:
        RecipeError: there is no such optimizer, or it cannot serve here.
        HyperparameterError: a number is out of its bounds.
    """
    names = [known for known in optimizer_names() if known not in UNFIT]
    if name in UNFIT:
        raise RecipeError(f"optimizer {name} {UNFIT[name]}: take one of {', '.join(names)}")
    if name not in names:
        near = nearest(name, names)
        raise RecipeError(f"optimizer is one of {', '.join(names)}: got {name!r}{near}")
    kind = getattr(optim, name)
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    if decay and "weight_decay" not in inspect.signature(kind).parameters:
        raise RecipeError(
            f"optimizer {name} has no weight decay: got {weight_decay}; leave it out, or take AdamW"
        )
    return kind(parameters, lr=lr, clip_norm=clip_norm, **decay)


def optimizer_names() -> list[str]:
    """Return the names of the built-in rules, in alphabetical order."""
    found = [
        name
        for name in optim.__all__
        if inspect.isclass(c := getattr(optim, name)) and issubclass(c, optim.Optimizer)
    ]
    return sorted((name for name in found if name not in ("Optimizer", "Mixed")), key=str.lower)

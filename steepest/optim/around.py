"""Around: what every optimizer can do besides its formula, in the same pass over memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from steepest.errors import HyperparameterError
from steepest.formula.extras import NORMS, NOTHING, Extras

AROUND: dict[str, Any] = {
    "clip_norm": None,
    "clip_value": None,
    "average": None,
    "average_decay": 0.999,
    "zero_grad": False,
    "norms": False,
    "skip_nonfinite": False,
}
"""The arguments of every optimizer that torch's do not have, with their defaults."""

RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "clip_norm": ("None or a number above 0", lambda x: x is None or x > 0),
    "clip_value": ("None or a number of at least 0", lambda x: x is None or x >= 0),
    "average": ("None, 'ema' or 'mean'", lambda x: x in (None, "ema", "mean")),
    "average_decay": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "zero_grad": ("True or False", lambda x: isinstance(x, bool)),
    "norms": ("True or False", lambda x: isinstance(x, bool)),
    "skip_nonfinite": ("True or False", lambda x: isinstance(x, bool)),
}


class Around(NamedTuple):
    """What an optimizer does around its formula, at every step the same."""

    extras: Extras = NOTHING
    """What is written into the kernels."""
    given: tuple[tuple[str, float], ...] = ()
    """The numbers that they need, by name."""
    clip_norm: float | None = None
    skip_nonfinite: bool = False


def around(name: str, given: Mapping[str, Any]) -> Around:
    """Check the arguments that every optimizer has, and sort them.

    Raises:
        HyperparameterError: says which, its rule and what was given.
    """
    for word, (rule, holds) in RULES.items():
        try:
            good = bool(holds(given[word]))
        except (TypeError, ValueError, RuntimeError):
            good = False
        if not good:
            raise HyperparameterError(f"{name}: {word} must be {rule}, not {given[word]!r}")
    numbers = {}
    if given["clip_value"] is not None:
        numbers["clip_value"] = float(given["clip_value"])
    if given["average"] == "ema":
        numbers["average_decay"] = float(given["average_decay"])
    clips = given["clip_value"] is not None
    return Around(
        extras=Extras(clips, given["average"], given["zero_grad"], given["norms"]),
        given=tuple(numbers.items()),
        clip_norm=given["clip_norm"],
        skip_nonfinite=given["skip_nonfinite"],
    )


def changed(name: str, old: Around, **given: Any) -> Around:
    """Return what is done around a formula with some of it changed."""
    numbers = dict(old.given)
    known = {
        "clip_norm": old.clip_norm,
        "clip_value": numbers.get("clip_value"),
        "average": old.extras.average,
        "average_decay": numbers.get("average_decay", AROUND["average_decay"]),
        "zero_grad": old.extras.zero_grad,
        "norms": old.extras.norms,
        "skip_nonfinite": old.skip_nonfinite,
    }
    return around(name, known | given)


# ---- norms --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Norms:
    """The norms of one step, of one parameter or of all together.

    Attributes:
        gradient: of the gradient as it came, before clipping, without a GradScaler's scale.
        parameter: of the parameter after the step.
        update: of the change that the step made.
        nonfinite: how many elements of the gradient are NaN or infinite.
        by_parameter: the same for each parameter, by its name, or by its place
            (group, index) where the optimizer was given no names; empty for a single one.
    """

    gradient: float
    parameter: float
    update: float
    nonfinite: int
    by_parameter: dict[Any, "Norms"] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The update's norm beside the parameter's; NaN for a parameter of zeros."""
        return self.update / self.parameter if self.parameter else math.nan


def norms(
    sums: Iterator[tuple[Any, Mapping[str, float]]], groups: list[dict[str, Any]], scale: float
) -> Norms:
    """Make norms of the sums of squares that a step has left for each parameter."""
    found = {id(p): sum_of for p, sum_of in sums}
    parts = {
        _label(group, k, j): found[id(p)]
        for k, group in enumerate(groups)
        for j, p in enumerate(group["params"])
        if id(p) in found
    }
    whole = {name: math.fsum(part[name] for part in parts.values()) for name in NORMS}
    return _rooted(whole, scale, {label: _rooted(part, scale) for label, part in parts.items()})


def _rooted(sums: Mapping[str, float], scale: float, parts: dict | None = None) -> Norms:
    gradient, parameter, update = (math.sqrt(float(sums[name])) for name in NORMS[:3])
    return Norms(gradient * scale, parameter, update, int(sums["nonfinite"]), parts or {})


def _label(group: Mapping[str, Any], k: int, j: int) -> Any:
    names = group.get("param_names")
    return names[j] if names else (k, j)

"""Param groups by the names of the parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from steepest.errors import HyperparameterError, nearest
from steepest.schedules import Schedule

Pattern = str | Callable[[str, Tensor], bool]
"""Names to match, or a function that tells of a parameter and its name."""


def matrices(name: str, p: Tensor) -> bool:
    """Tell whether a parameter is a matrix: a pattern for `groups`."""
    return p.ndim == 2


@dataclass(frozen=True, eq=False)
class _Named:
    """A parameter with its name, and the names of the places that share it."""

    p: Tensor
    names: list[str]

    @property
    def name(self) -> str:
        return self.names[0]

    def matches(self, pattern: Pattern) -> bool:
        if not isinstance(pattern, str):
            return bool(pattern(self.name, self.p))
        parts = [part.strip() for part in pattern.split("|")]
        return any(fnmatchcase(name, part) for part in parts for name in self.names)


def groups(
    model: nn.Module | Iterable[tuple[str, Tensor]],
    patterns: Mapping[Pattern, Mapping[str, Any]] | None = None,
    *,
    no_decay: bool = False,
    layer_decay: float | None = None,
    lr: float | Tensor | Schedule | None = None,
    depth: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Return the param groups of a model by patterns over its parameters' names.

        optim.AdamW(groups(model, {"*.bias|*norm*": dict(weight_decay=0)}), lr=1e-3)

    Every trainable parameter is in exactly one group, once where it is shared (tied), and under its
    name, by which checkpoints match. Frozen ones are left out. Parameters of equal hyperparameters
    share a group; the one that only has the optimizer's own comes last.

    Args:
        model: a module, or pairs (name, parameter) such as `model.named_parameters()`.
        patterns: pattern -> hyperparameters of the parameters that it matches. `*` matches any
            letters, dots too; `?` one; `a|b` is a or b; case counts. A function (name, p) -> bool
            is a pattern too, such as `optim.matrices`. The first match wins.
        no_decay: set `weight_decay=0` for biases and norms: what has fewer than two dimensions or
            is called `bias`. Embeddings decay. A `weight_decay` of a pattern goes before.
        layer_decay: multiply lr by `layer_decay ** (top - depth)`, a `lr` of a pattern likewise:
            the top learns with lr, what is below it more slowly.
        lr: lr of the top, if there is a `layer_decay`: a number, a tensor or a schedule.
        depth: name -> depth in the model, from the input up; the largest is the top's. Left out,
            names count: a layer is what a name says up to its first number (`blocks.3`), layers lie
            in the order in which `model` has them, 1, 2, ...; what comes before the first has depth
            0, what comes after the last is the top, what stands between belongs to the one before.

    Sources: `no_decay` is the rule of timm's `param_groups_weight_decay`; `layer_decay` is Clark et
    al. 2020 (ELECTRA), appendix B, https://arxiv.org/abs/2003.10555, with the depths of Bao et al.
    2022 (BEiT), https://arxiv.org/abs/2106.08254: embeddings, blocks, head, one apart from the next
    (ELECTRA's own code leaves one more between the last block and the head).

    Raises:
        HyperparameterError: a pattern matches no parameter, or only frozen ones, or only such as
            earlier patterns took; two parameters have one name; none is trainable; `layer_decay`
            is not above 0 and at most 1, has no `lr`, or finds no layers.
    """
    parameters = _named(model)
    _check_patterns(patterns := patterns or {})
    served = _served(parameters, patterns)
    shares = _shares([named.name for named in parameters], layer_decay, lr, depth)
    result: list[dict[str, Any]] = []
    for pattern, found in served.items():
        for named in found:
            own = dict(patterns.get(pattern, {}))
            if no_decay and (named.p.ndim < 2 or named.name.split(".")[-1] == "bias"):
                own.setdefault("weight_decay", 0.0)
            if shares:
                own["lr"] = _times(own.get("lr", lr), shares[named.name])
            _put(result, named, own)
    return sorted(result, key=lambda group: len(group) == 1)


def _put(result: list[dict[str, Any]], named: _Named, own: dict[str, Any]) -> None:
    """Add a parameter to the group of its hyperparameters, or begin one."""
    for group in result:
        if group.keys() - {"params"} == own.keys() and all(_equal(group[k], own[k]) for k in own):
            group["params"].append((named.name, named.p))
            return
    result.append({"params": [(named.name, named.p)], **own})


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return bool(a == b)


# ---- names ------------------------------------------------------------------------------------


def _named(model: nn.Module | Iterable[tuple[str, Tensor]]) -> list[_Named]:
    """Return each parameter once, with all its names, in order."""
    found: dict[int, _Named] = {}
    owners: dict[str, Tensor] = {}
    for name, p in _pairs(model):
        if owners.setdefault(name, p) is not p:
            raise HyperparameterError(
                f"groups: a name must be one parameter's, got {name!r} twice: put the part of the "
                "model that it comes from before it"
            )
        found.setdefault(id(p), _Named(p, [])).names.append(name)
    if not any(named.p.requires_grad for named in found.values()):
        raise HyperparameterError(
            f"groups: a parameter must be trainable, got {len(found)} parameters, all with "
            "requires_grad=False: unfreeze what is to be trained"
        )
    return list(found.values())


def _pairs(model: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        yield from model.named_parameters(remove_duplicate=False)
        return
    for pair in model if isinstance(model, Iterable) else [model]:
        match pair:
            case (str() as name, Tensor() as p):
                yield name, p
            case _:
                raise HyperparameterError(
                    f"groups: needs the parameters' names, got a {type(pair).__name__}: give the "
                    "model, or pairs (name, parameter) such as model.named_parameters()"
                )


# ---- patterns ---------------------------------------------------------------------------------


def _check_patterns(patterns: Mapping[Pattern, Mapping[str, Any]]) -> None:
    if not isinstance(patterns, Mapping):
        raise HyperparameterError(
            f"groups: patterns must be a dict, got a {type(patterns).__name__}: give such as "
            '{"*.bias": dict(weight_decay=0)}'
        )
    for pattern, own in patterns.items():
        good = (isinstance(pattern, str) or callable(pattern)) and isinstance(own, Mapping)
        if not good or own.keys() & {"params", "param_names"}:
            raise HyperparameterError(
                "groups: a pattern over names has a dict of hyperparameters, which does not name "
                f'the params again, got {pattern!r}: {own!r}; give such as "*.bias": '
                "dict(weight_decay=0)"
            )


def _served(parameters: list[_Named], patterns: Iterable[Pattern]) -> dict[Any, list[_Named]]:
    """Return pattern -> the trainable parameters that it is the first to match; None -> the rest.

    Raises:
        HyperparameterError: a pattern is the first for none.
    """
    served: dict[Any, list[_Named]] = {pattern: [] for pattern in (*patterns, None)}
    for named in parameters:
        if named.p.requires_grad:
            first = next((pattern for pattern in patterns if named.matches(pattern)), None)
            served[first].append(named)
    for pattern in patterns:
        if not served[pattern]:
            _refuse(pattern, parameters, served)
    return served


def _refuse(pattern: Pattern, parameters: list[_Named], served: dict[Any, list[_Named]]) -> None:
    matched = [named for named in parameters if named.matches(pattern)]
    trained = [named for named in matched if named.p.requires_grad]
    if not matched:
        raise HyperparameterError(
            f"groups: a pattern must match a parameter, got {pattern!r}{_near(pattern, parameters)}"
            f": the names are {_shown([named.name for named in parameters])}"
        )
    if not trained:
        raise HyperparameterError(
            f"groups: a pattern must match a trainable parameter, got {pattern!r} for "
            f"{_shown([named.name for named in matched])}, frozen by requires_grad=False: unfreeze "
            "some, or leave the pattern out"
        )
    takers = [earlier for earlier, found in served.items() if set(found) & set(trained)]
    raise HyperparameterError(
        f"groups: the first pattern that matches a parameter serves it, got {pattern!r}, of whose "
        f"{len(trained)} parameters {_shown(takers)} left none: put the narrower pattern first"
    )


def _near(pattern: Pattern, parameters: list[_Named]) -> str:
    """Return a hint at a name, or at a part of one, that is like a part of the pattern."""
    if not isinstance(pattern, str):
        return ""
    names = [name.split(".") for named in parameters for name in named.names]
    heads = {".".join(name[: k + 1]) for name in names for k in range(len(name))}
    known = sorted(heads.union(*names))
    return next(filter(None, (nearest(p.strip(" *?."), known) for p in pattern.split("|"))), "")


def _shown(names: list[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)})" if len(names) > 6 else "")


# ---- layers -----------------------------------------------------------------------------------


def _shares(
    names: list[str], layer_decay: Any, lr: Any, depth: Callable[[str], float] | None
) -> dict[str, float]:
    """Return name -> its share of lr, or nothing without a `layer_decay`."""
    if layer_decay is None:
        if lr is not None or depth is not None:
            raise HyperparameterError(
                "groups: lr and depth belong to layer_decay, got none: give layer_decay too, or "
                "give lr to the optimizer"
            )
        return {}
    if not isinstance(layer_decay, Real) or not 0 < float(layer_decay) <= 1:
        raise HyperparameterError(
            f"groups: layer_decay must be a number above 0 and at most 1, got {layer_decay!r}: "
            "give such as 0.75"
        )
    if lr is None:
        raise HyperparameterError(
            "groups: layer_decay gives each layer a part of lr, got no lr: give it here too"
        )
    depths = _depths(names) if depth is None else {name: _depth(depth, name) for name in names}
    top = max(depths.values())
    return {name: float(layer_decay) ** (top - found) for name, found in depths.items()}


def _depths(names: list[str]) -> dict[str, float]:
    """Return name -> depth, by the order of what the names say up to their first number."""
    layers = [_layer(name) for name in names]
    order = {layer: k for k, layer in enumerate(dict.fromkeys(filter(None, layers)), 1)}
    if not order:
        raise HyperparameterError(
            "groups: layer_decay finds layers by a number in the names, such as blocks.3.weight, "
            f"got {_shown(names)}: give depth, a function name -> depth"
        )
    last = max(k for k, layer in enumerate(layers) if layer)
    depths, here = {}, 0
    for k, (name, layer) in enumerate(zip(names, layers, strict=True)):
        here = len(order) + 1 if k > last else order.get(layer, here)
        depths[name] = here
    return depths


def _layer(name: str) -> str:
    parts = name.split(".")
    number = next((k for k, part in enumerate(parts) if part.isdecimal()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def _depth(depth: Callable[[str], float], name: str) -> float:
    found = depth(name)
    if not isinstance(found, Real):
        raise HyperparameterError(
            f"groups: depth must return a number for each name, got {found!r} for {name!r}: "
            "give 0 at the input, more above"
        )
    return float(found)


def _times(lr: Any, share: float) -> Any:
    if not isinstance(lr, Real | Tensor | Schedule):
        raise HyperparameterError(
            f"groups: layer_decay multiplies lr, which must be a number, a tensor or a schedule of "
            f"steepest.schedules, got {lr!r}: give one of these"
        )
    return lr if share == 1 else lr * share

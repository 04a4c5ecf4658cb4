"""The state of an optimizer: dicts that tell when they change, and the fit of a saved state.

The kernels keep tables of addresses over the state's tensors. Rather than look every tensor up
again at each step, the dicts that hold them say when an entry was replaced.
"""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.errors import StateError
from steepest.formula import Formula, plan
from steepest.formula.extras import AVERAGE, COUNT
from steepest.formula.shapes import COLUMN, FULL, ROW, TORCH
from steepest.kernels.reference import COMPUTED_IN
from steepest.optim.hyper import EXECUTION, Rule, check
from steepest.optim.scheduled import Schedules, values


class Noting(dict):
    """A dict that calls `note()` before any change of its entries."""

    def __init__(self, note: Callable[[], None], entries: Any = ()) -> None:
        super().__init__(entries)
        self.note = note

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # copied and pickled as the plain dict that it stands for


def _noting(name: str) -> Callable:
    change = getattr(dict, name)

    def noted(self: Noting, *args: Any, **kwargs: Any) -> Any:
        self.note()
        return change(self, *args, **kwargs)

    noted.__name__, noted.__doc__ = name, change.__doc__
    return noted


for _name in (
    "__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update",
):  # fmt: skip
    setattr(Noting, _name, _noting(_name))


class State(Noting):
    """The states by parameter; a parameter met for the first time has an empty one.

    Stands for torch's `defaultdict(dict)`: entries are told apart by the parameter's identity.
    """

    def __init__(self, note: Callable[[], None], entries: Any = ()) -> None:
        super().__init__(note)
        for key, value in dict(entries).items():
            self[key] = value

    def __missing__(self, key: Any) -> Any:
        self[key] = {}
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, Noting(self.note, value) if isinstance(value, dict) else value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> Any:
        return defaultdict, (dict, dict(self))


# ---- saving and loading -------------------------------------------------------------------------


def plain(_optimizer: Any, result: dict[str, Any]) -> None:
    """Make the entries of a state_dict plain dicts, which note nothing."""
    for key, entry in result["state"].items():
        if isinstance(entry, dict):
            result["state"][key] = dict(entry)


def fitted(optimizer: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state_dict as it fits an optimizer, or refuse it; neither is changed.

    Parameters are matched by name when both sides have names, else by position. Tensors are
    copied: two optimizers never share state.

    Raises:
        StateError: a group, a parameter or a state is missing, extra or of another shape.
    """
    name = type(optimizer).__name__
    state, saved_groups = _parts(name, saved)
    groups = optimizer.param_groups
    if len(groups) != len(saved_groups):
        raise StateError(
            f"{name}: the state_dict has {len(saved_groups)} param groups, the optimizer has "
            f"{len(groups)}; build the optimizer with the same groups"
        )
    result_groups = []
    result_state = _unplaced(name, state, saved_groups)
    for k, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        rule = optimizer.rule(group)
        options = _options(optimizer, rule, saved_group, k)
        keys = _matched(name, group, saved_group, k)
        entries = [state[key] for key in keys if isinstance(state.get(key), dict)]
        _count_for_schedules(rule, optimizer.scheduled.groups[k], options, entries)
        labels = group.get("param_names") or [f"{index} of group {k}" for index in range(len(keys))]
        for label, p, key in zip(labels, group["params"], keys, strict=True):
            if key in state:
                result_state[key] = _checked(
                    rule, label, p, state[key], options, optimizer.averages
                )
        result_groups.append(options | {"params": keys})
        if "param_names" in group:
            result_groups[-1]["param_names"] = list(group["param_names"])
    return {**saved, "state": result_state, "param_groups": result_groups}


def _parts(name: str, saved: dict[str, Any]) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """Return the state and the groups of a state_dict, after checking that they are there."""
    state, groups = saved.get("state"), saved.get("param_groups")
    if (
        not isinstance(state, dict)
        or not isinstance(groups, list | tuple)
        or not all(isinstance(group, dict) and "params" in group for group in groups)
    ):
        raise StateError(
            f"{name}: a state_dict has a dict 'state' and a list 'param_groups' of dicts with "
            f"'params', this has {', '.join(sorted(map(str, saved))) or 'nothing'}"
        )
    return state, list(groups)


def _unplaced(name: str, state: dict[Any, Any], groups: list[dict[str, Any]]) -> dict[Any, Any]:
    """Return a copy of the state that is no parameter's: a user's own, under a key of his."""
    known = {key for group in groups for key in group["params"]}
    extra = {key: value for key, value in state.items() if key not in known}
    if strange := [key for key in extra if isinstance(key, int)]:
        raise StateError(
            f"{name}: the state_dict has a state for parameter {strange[0]}, which is in none of "
            "its param groups; save it again, whole"
        )
    return deepcopy(extra)


def _options(optimizer: Any, rule: Rule, saved_group: dict[str, Any], k: int) -> dict[str, Any]:
    """Return a saved group's options; a missing flag takes its default, a missing number is an
    other optimizer's."""
    options = {key: value for key, value in saved_group.items() if key != "params"}
    own = optimizer.param_groups[k]
    for option in EXECUTION:  # how to run is this optimizer's own affair, here and now
        options.pop(option, None)
        if option in own:
            options[option] = own[option]
    for word, value in {**rule.fixed, "optimizer": own.get("optimizer")}.items():
        if options.get(word, value) != value:
            raise StateError(
                f"{rule.name}: param group {k} of the state_dict has {word}="
                f"{options[word]!r}, here it is always {value!r}; it was saved by another optimizer"
            )
    for word, default in rule.defaults.items():
        if word not in options:
            if word in rule.formula.hyperparameters and not isinstance(default, bool):
                raise StateError(
                    f"{rule.name}: param group {k} of the state_dict has no "
                    f"{word!r}; it was saved by another optimizer (it has "
                    f"{', '.join(sorted(key for key in options if key != 'param_names'))})"
                )
            options[word] = default
    check(rule.name, options, rule.formula)
    return options


def _count_for_schedules(
    rule: Rule, found: Schedules, options: dict[str, Any], entries: list[dict[str, Any]]
) -> None:
    """Give a group's schedules the count of steps that they go on from; drop one of no use."""
    if not found:
        options.pop("schedule_step", None)
        return
    if "lr" in found:
        options.pop("initial_lr", None)  # of the lr_scheduler whose place the schedule takes
    if "schedule_step" not in options:
        if not rule.formula.counts:
            raise StateError(
                f"{rule.name}: the state_dict does not tell how many steps were made, from which "
                f"the schedule of {', '.join(found)} goes on; set 'schedule_step' in each of its "
                "param groups"
            )
        options["schedule_step"] = max((int(x.get("step", 0)) for x in entries), default=0)
    options |= values(found, options["schedule_step"])


def _matched(name: str, group: dict[str, Any], saved: dict[str, Any], k: int) -> list[Any]:
    """Return the saved keys of a group's parameters, in the group's order."""
    keys = list(saved["params"])
    names, saved_names = group.get("param_names"), saved.get("param_names")
    if len(keys) != len(group["params"]):
        raise StateError(
            f"{name}: param group {k} of the state_dict has {len(keys)} parameters, the "
            f"optimizer's has {len(group['params'])}; build both over the same parameters"
        )
    if names is None or saved_names is None:
        return keys
    missing = sorted(set(names) - set(saved_names))
    if missing:
        unused = sorted(set(saved_names) - set(names))
        raise StateError(
            f"{name}: param group {k} of the state_dict has no parameter {missing[0]!r} "
            f"({len(missing)} missing); it has {', '.join(unused)} instead: rename them in the "
            "state_dict's 'param_names'"
        )
    by_name = dict(zip(saved_names, keys, strict=True))
    return [by_name[word] for word in names]


def _checked(
    rule: Rule, label: str, p: Tensor, saved: Any, options: dict[str, Any], averages: bool
) -> dict[str, Any]:
    """Return a copy of one parameter's saved state, after checking names and shapes."""
    formula, name = rule.formula, rule.name
    known = {*formula.states, *(["step"] if formula.counts else [])}
    known |= {AVERAGE, COUNT} if averages else set()
    where = f"{name}: the saved state of parameter {label}"
    if not isinstance(saved, dict):
        raise StateError(f"{where} is a {type(saved).__name__}, not a dict of tensors")
    if extra := sorted(saved.keys() - known):
        if AVERAGE in extra:
            raise StateError(
                f"{where} has an average, {name} was built without; build it with average='ema' or "
                f"'mean', or take {AVERAGE!r} and {COUNT!r} out of the state_dict"
            )
        raise StateError(
            f"{where} has {extra[0]!r}, which {name} does not know (it knows "
            f"{', '.join(sorted(known)) or 'none'}); it was saved by another optimizer"
        )
    present = {
        k: _copied(where, k, value, p, formula) for k, value in saved.items() if value is not None
    }
    needed = set(_needed(formula, options, p, present)) if present else set()
    if missing := sorted(needed - present.keys()):
        raise StateError(f"{where} lacks {missing[0]!r}; it has {', '.join(sorted(present))}")
    return present


def _needed(
    formula: Formula, options: dict[str, Any], p: Tensor, present: dict[str, Any]
) -> list[str]:
    """Return the states that a formula reads under these hyperparameters."""
    absent = frozenset(formula.tested - present.keys())
    step = max(int(present.get("step", 0)), 1)  # the update made: the next may begin with a state
    own = {name: present[name] for name in formula.numbers & present.keys()}
    made = plan(formula, options, step, absent, {**own, "p": p})
    return [*made.reads, *made.numbers, *(["step"] if formula.counts else [])]


@dataclass(frozen=True)
class Kept:
    """A tensor that torch is not to cast to p's dtype: one that is computed in another."""

    tensor: Tensor


def _copied(where: str, key: str, value: Any, p: Tensor, formula: Formula) -> Tensor | float | Kept:
    if key == "step":
        return _count(where, value)
    if key == COUNT or key in formula.numbers:
        return _number(where, key, value)
    kind = formula.shapes.get(key, FULL)
    shape = _shape(kind, p)
    if not isinstance(value, Tensor) or (value.shape != shape and shape is not None):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise StateError(
            f"{where}: {key!r} must have shape {tuple(shape or p.shape)}, found {found}"
        )
    if value.is_complex() and not p.is_complex():
        raise StateError(f"{where}: {key!r} is complex, the parameter is {p.dtype}")
    if kind in TORCH:
        return Kept(value.detach().to(p.device, COMPUTED_IN.get(p.dtype, p.dtype), copy=True))
    return value.detach().clone(memory_format=torch.preserve_format)


def _shape(kind: str, p: Tensor) -> tuple[int, ...] | None:
    """Return the shape of a state; None for one that torch's words make of any shape."""
    known = {FULL: p.shape, ROW: (*p.shape[:-1], 1), COLUMN: (*p.shape[:-2], 1, *p.shape[-1:])}
    return known.get(kind)


def _number(where: str, key: str, value: Any) -> float:
    """Return a saved state of one number as Python's: torch casts tensors to p's dtype."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise StateError(f"{where}: {key!r} must be one real number, not {value!r}")
    return float(number)


def numbered(optimizer: Any) -> None:
    """Make what `fitted` kept from torch's cast the tensors that they are, once it has loaded."""
    for group in optimizer.param_groups:
        numbers = {*optimizer.rule(group).formula.numbers, COUNT}
        for p in group["params"]:
            entry = optimizer.state.get(p, {})
            for name, value in list(entry.items()):
                if isinstance(value, Kept):
                    entry[name] = value.tensor
                elif name in numbers and isinstance(value, float):
                    entry[name] = torch.tensor(value, dtype=torch.float64, device="cpu")


def _count(where: str, value: Any) -> Tensor:
    """Return a saved step as the tensor that counts; torch has saved it as an int, once."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(number, int | float) or number < 0 or not float(number).is_integer():
        raise StateError(f"{where}: 'step' must be a whole number, at least 0, not {value!r}")
    return torch.tensor(float(number), dtype=torch.float32, device="cpu")

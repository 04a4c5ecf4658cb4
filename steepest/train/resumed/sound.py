"""Whether a checkpoint holds what a run keeps, seen before anything live has changed.

Its checksums tell that it is as it was written, and not who wrote it: whoever makes one may put
anything into it.
"""

import math
import random
import reprlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.errors import CheckpointError
from steepest.train.kinds import Scheduler, length_of
from steepest.train.run import Run

MOST = 2**62  # of whatever is counted
LONGEST = 10_000  # characters of a setting
TWISTER = 624  # words of a Mersenne Twister, of which one is next
Absent = object()

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]


def check_parts(state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that no run has written.

    Raises:
        CheckpointError: a part is absent or is not what it must be.
    """
    _check(state, PARTS)
    _check(state["kept"], KEPT)


def check_fit(run: Run, state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint, made of sound parts, that this run cannot have written.

    Raises:
        CheckpointError: a number lies beyond its bounds or is of another kind than the run's own.
    """
    _check_place(run, state["kept"])
    _check_groups(run.optimizer, state["optimizer"])
    _check_scheduler(run.schedule, state["schedule"])
    if not run.override:
        _check_numbers(state["optimizer"]["state"])


def _check_place(run: Run, kept: Mapping[str, Any]) -> None:
    epoch, batch, *_ = kept["place"]
    batches, rows, best = length_of(run.batches), len(kept["history"]), kept["best"]["row"]
    if batches is not None and batch > batches:
        raise _unsound(f"batch is one of the {batches:,} of its epoch", batch)
    if rows != epoch:
        raise _unsound(f"history has a row for each of {epoch:,} epochs", rows)
    if best is not None and not _is_finite(best.get(run.monitored, 0.0)):
        raise _unsound(f"best {run.monitored} is a finite number", best[run.monitored])


def _check_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    then, now = state["param_groups"], optimizer.state_dict()["param_groups"]
    for k, (was, group) in enumerate(zip(then, now, strict=False)):
        for name, value in group.items():
            if name != "initial_lr" and not _is_alike(was.get(name, Absent), value):
                given = was.get(name, Absent)
                raise _unsound(f"{name} of param group {k} is of the kind of {value!r}", given)


def _check_scheduler(schedule: Any, state: Mapping[str, Any] | None) -> None:
    """Refuse values of another kind and those in place of methods, as torch takes anything."""
    if not isinstance(schedule, Scheduler):
        return
    now = schedule.state_dict()
    for name, value in (state or {}).items():
        fits = _is_alike(value, now[name]) if name in now else not hasattr(schedule, name)
        if not fits:
            raise _unsound(f"schedule has a {name} as it is made", value)
    for inner, inner_state in zip(
        getattr(schedule, "_schedulers", ()), (state or {}).get("_schedulers", ()), strict=False
    ):
        _check_scheduler(inner, inner_state)


def _check_numbers(state: Any) -> None:
    if isinstance(state, Tensor) and (state.is_floating_point() or state.is_complex()):
        if state.isnan().any():
            raise CheckpointError(
                "A checkpoint's optimizer state holds numbers: got NaN, from which no run goes on; "
                "begin a new run, or override"
            )
    elif isinstance(state, dict):
        for value in state.values():
            _check_numbers(value)


def _check(given: Mapping[str, Any], rules: Rules) -> None:
    for name, (holds, rule) in rules.items():
        if name not in given:
            raise CheckpointError(f"The checkpoint has no {name}: it is of another version")
        if not holds(given[name]):
            raise _unsound(f"{name} is {rule}", given[name])


def _unsound(rule: str, given: object) -> CheckpointError:
    got = "nothing" if given is Absent else reprlib.repr(given)
    return CheckpointError(f"A checkpoint's {rule}: got {got}; do not trust it")


def _is_alike(then: Any, now: Any) -> bool:
    """Tell whether two values are of one kind: numbers (and tensors) are, nothing is of any."""
    kinds = [float if isinstance(value, (int, Tensor)) else type(value) for value in (then, now)]
    return then is None or now is None or kinds[0] is kinds[1]


def _is_whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < MOST


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_place(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_whole, value))


def _is_mean(value: Any) -> bool:
    if type(value) is not list or len(value) != 2:
        return False
    return _is_finite(value[0]) and _is_whole(value[1])


def _is_named(value: Any, kinds: tuple[type, ...] = (object,)) -> bool:
    if type(value) is not dict:
        return False
    return all(type(key) is str and isinstance(item, kinds) for key, item in value.items())


def _is_word(value: Any) -> bool:
    """Tell whether a text may stand in a sentence that a terminal shows."""
    return type(value) is str and len(value) <= LONGEST and value.isprintable()


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is str:
        return len(value) <= LONGEST
    return value is None or type(value) in (bool, int, float)


def _is_row(value: Any) -> bool:
    if not _is_named(value, (int, float, str, type(None))):
        return False
    counted = all(_is_whole(value.get(name)) for name in ("epoch", "step", "samples"))
    return counted and _is_time(value.get("seconds")) and type(value.get("kind")) is str


def _is_history(value: Any) -> bool:
    return type(value) is list and all(map(_is_row, value))


def _is_best(value: Any) -> bool:
    if type(value) is not dict or value.keys() != {"row", "weights", "waited"}:
        return False
    row, weights = value["row"], value["weights"]
    return (
        _is_whole(value["waited"])
        and (row is None or _is_row(row))
        and (weights is None or _is_named(weights))
    )


def _is_date(value: Any) -> bool:
    try:
        return type(value) is str and len(value) < 50 and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_random(value: Any) -> bool:
    """Tell whether generators take these states, by giving them to some that nobody uses."""
    try:
        for state in (value["torch"], *value["loader"]):
            torch.Generator().set_state(state)
        random.Random().setstate(value["python"])
        np.random.RandomState().set_state(tuple(value["numpy"]))
        return 0 <= value["numpy"][2] <= TWISTER  # numpy would read beyond its words
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False


def _is_optimizer(state: Any = None, param_groups: Any = None, **more: Any) -> bool:
    if type(state) is not dict or type(param_groups) is not list:
        return False
    own = [value for key, value in state.items() if type(key) is int]
    return all(type(part) is dict for part in (*own, *param_groups))


def _is_scaler(value: Any) -> bool:
    if value is None:
        return True
    names = torch.amp.GradScaler("cpu").state_dict().keys()
    return _is_named(value) and value.keys() == names and all(map(_is_finite, value.values()))


PARTS: Rules = {
    "versions": (
        lambda value: _is_named(value) and all(map(_is_word, value.values())),
        "names and versions",
    ),
    "settings": (
        lambda value: (
            _is_named(value) and all(map(_is_word, value)) and _is_plain([*value.values()])
        ),
        "names and plain values",
    ),
    "parameters": (
        lambda value: type(value) is list and all(map(_is_word, value)),
        "a list of names",
    ),
    "model": (lambda value: isinstance(value, dict), "names and tensors"),
    "optimizer": (
        lambda value: _is_named(value) and _is_optimizer(**value),
        "states by number and a list of groups",
    ),
    "schedule": (lambda value: value is None or _is_named(value), "names and values or nothing"),
    "scaler": (_is_scaler, "finite numbers or nothing"),
    "kept": (_is_named, "names and values"),
}

KEPT: Rules = {
    "place": (_is_place, "four whole numbers of at least 0"),
    "history": (_is_history, "a list of rows"),
    "best": (_is_best, "a row, weights and a number"),
    "epoch_loss": (_is_mean, "a finite total and a number of rows"),
    "window": (_is_mean, "a finite total and a number of rows"),
    "seconds": (_is_time, "a number of at least 0"),
    "validated": (lambda value: _is_whole(value, -1), "a number of updates"),
    "found": (lambda value: _is_named(value, (int, float)), "names and numbers"),
    "rows": (_is_whole, "a whole number of at least 0"),
    "started": (_is_date, "a date"),
    "epoch_random": (lambda value: value == {} or _is_random(value), "states of random numbers"),
    "at_end": (lambda value: type(value) is bool, "true or false"),
    "random": (_is_random, "states of random numbers"),
}

"""Scheduled: hyperparameters that are functions of the steps made, evaluated at each step."""

from collections.abc import Callable, Mapping
from typing import Any

from steepest.errors import HyperparameterError
from steepest.formula import Formula

Schedules = dict[str, Callable[[int], float]]
"""Functions of the steps made, by hyperparameter."""


def schedules(given: Mapping[str, Any], formula: Formula) -> Schedules:
    """Return the hyperparameters that are given as functions of the steps made."""
    return {word: given[word] for word in formula.hyperparameters if callable(given.get(word))}


def values(found: Schedules, step: int) -> dict[str, float]:
    """Return what schedules give after `step` steps.

    Raises:
        HyperparameterError: one gives no number.
    """
    return {word: _number(word, schedule(step), step) for word, schedule in found.items()}


def _number(word: str, value: Any, step: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise HyperparameterError(
            f"the schedule of {word} must give a number, not {value!r} (at step {step}); a number "
            "may be scheduled, not several at once"
        ) from None


class Scheduled:
    """The schedules of an optimizer's param groups; each group counts its steps itself.

    Attributes:
        inherited: the schedules of groups that have no value of their own.
        groups: the schedules of each group, by its place.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inherited: Schedules = {}
        self.groups: list[Schedules] = []
        self.shown: dict[int, dict[str, float]] = {}
        """What a group's schedules gave last, by its place; empty when that is not known."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shown": {}}

    def of(self, group: Mapping[str, Any], formula: Formula) -> Schedules:
        """Return the schedules that a group to be added has, its own or inherited ones."""
        inherited = {word: f for word, f in self.inherited.items() if word not in group}
        return inherited | schedules(group, formula)

    def add(self, group: dict[str, Any], found: Schedules) -> None:
        """Take note of a group that was added, and of its schedules."""
        if found:
            group.setdefault("schedule_step", 0)
            self.shown[len(self.groups)] = values(found, 0)
        self.groups.append(found)

    def evaluate(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Set what schedules give for the step to come; return the groups for which it counts.

        Raises:
            HyperparameterError: another hand, such as an lr_scheduler's, has set one of them.
        """
        if not any(self.groups):
            return []
        if len(groups) != len(self.groups):
            raise HyperparameterError(
                f"{self.name}: {len(self.groups)} param groups were added, there are "
                f"{len(groups)}: which has a schedule is not known; build the optimizer anew "
                "instead of changing the list"
            )
        every = enumerate(zip(groups, self.groups, strict=True))
        return [group for k, (group, found) in every if found and self._follow(k, group, found)]

    def _follow(self, k: int, group: dict[str, Any], found: Schedules) -> bool:
        """Set what a group's schedules give; tell whether its next step counts.

        An lr that was set to 0 by hand stays for the step, which does not count: so does
        torch.distributed.checkpoint make states before it loads them.
        """
        shown = self.shown.setdefault(k, {})
        other = [word for word in found if shown.get(word, group[word]) != group[word]]
        if "lr" in found and "initial_lr" in group:
            other = ["lr"]
        held = other == ["lr"] and group["lr"] == 0 and "initial_lr" not in group
        if other and not held:
            raise HyperparameterError(
                f"{self.name}: {other[0]} is a schedule of the optimizer's own, and something else "
                f"sets it, too (an lr_scheduler?), to {group[other[0]]!r}; leave out one of the two"
            )
        now = values(found, group["schedule_step"])
        group.update({word: value for word, value in now.items() if not (held and word == "lr")})
        shown.update(now)
        return not held

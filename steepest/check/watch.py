"""Watch: rules that listen to a training loop, and what they have found."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from steepest.check.data import Data
from steepest.check.finding import Finding
from steepest.check.gradients import Gradients
from steepest.check.losses import Losses
from steepest.check.models import Models
from steepest.check.modes import Modes
from steepest.check.numbers import Numbers
from steepest.check.parameters import Parameters
from steepest.check.schedules import Schedules
from steepest.check.states import States
from steepest.check.taps import Rules, leave, listen
from steepest.check.where import Place, here

BEHIND = {"SC103": ("SC203",), "SC108": ("SC201", "SC203", "SC204")}
"""Codes that another one explains, where both are found at one line."""


class FactError(BaseException):
    """A fact, where a watch is to stop at the first one; no `except Exception` hides it."""


class Watch:
    """Listen to every optimizer, loss and scheduler, and to the models that are known.

    It listens from its making, or within a `with`, until `close`.

    Attributes:
        models: the models whose parameters have names.
        stop: whether the first fact raises `FactError`.
    """

    def __init__(
        self,
        models: Iterable[nn.Module] = (),
        *,
        stop: bool = False,
        expect_frozen: str | Iterable[str] = (),
        expect_steps: int | None = None,
    ) -> None:
        self.models = list(models)
        known = Models(self.models)
        self._found_models = known
        self.stop = stop
        self._found: dict[tuple[str, Place | None], Finding] = {}
        self._names: dict[int, str] = {}
        self._rules: list[Rules] = [
            Parameters(self.report, self.name, known, expect_frozen),
            Gradients(self.report, self.name),
            States(self.report, self.name),
            Modes(self.report, known),
            Losses(self.report),
            Numbers(self.report, self.name),
            Schedules(self.report, expect_steps),
            Data(self.report),
        ]
        self._open = True
        listen(self._rules)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; rules that need the end look once."""
        if self._open:
            self._open = False
            leave(self._rules)
            for rule in self._rules:
                rule.finished()

    def findings(self) -> list[Finding]:
        """Return what was found, each mistake once for each line."""
        return [
            finding
            for (code, where), finding in self._found.items()
            if not any((better, where) in self._found for better in BEHIND.get(code, ()))
        ]

    def report(self, code: str, message: str, *, step: int, where: Place | None = None) -> None:
        """Note a finding, at the user's line where none is given."""
        where = where or here()
        if (code, where) in self._found:
            return
        finding = Finding(step, code, message, where)
        self._found[code, where] = finding
        if self.stop and finding.is_fact:
            raise FactError(str(finding))

    def name(self, p: Tensor) -> str:
        """Return a parameter's name in its model, or its shape."""
        if id(p) not in self._names:
            named = (pair for model in self.models for pair in model.named_parameters())
            self._names = {id(q): name for name, q in named}
        name = self._names.get(id(p)) or self._found_models.name(p)
        return name or f"a parameter of shape {tuple(p.shape)}"


def watch(
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    expect_frozen: str | Iterable[str] = (),
    expect_steps: int | None = None,
    **known: Any,
) -> Watch:
    """Watch a training loop from here on; also a context manager.

    Args:
        model: the model; None looks for those that have an optimizer.
        optimizer: its optimizer.
        expect_frozen: names of parameters that need no optimizer, as "backbone.*".
        expect_steps: how many updates the training is to make.
        known: what else is known.
    """
    return Watch(
        [] if model is None else [model], expect_frozen=expect_frozen, expect_steps=expect_steps
    )

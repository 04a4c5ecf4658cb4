"""Rules about numbers: where the first NaN or Inf comes from, and losses that keep their graphs."""

import gc
import itertools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from steepest.check.graph import is_readable, nodes, notes, operation, saved
from steepest.check.losses import TOLD
from steepest.check.taps import Rules
from steepest.check.where import Place, here

CLOSE = 40  # backwards that are looked at closely
SELDOM = 256  # then ten of so many
KEPT = 5  # graphs of past updates that are alive, and a sum is to blame
IN_A_ROW = 3
GRAPH = "steepest.check: graph"
SCALED = frozenset(("MulBackward0", "DivBackward0", "ToCopyBackward0"))

Report = Callable[..., None]


class Graph:
    """Lives as long as a node of a graph that holds it."""


class Numbers(Rules):
    """SC109 and SC110."""

    def __init__(self, report: Report, name: Callable[[Tensor], str]) -> None:
        self.report = report
        self.name = name
        self.step = 0
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._count = 0
        self._last: float | None = None  # the last finite loss
        self._bad: tuple[str, Place | None] | None = None
        self._row = 0  # updates by such losses that have spoiled nothing
        self._is_scaled = False
        self._over = False  # all that follows from a NaN has been told
        self._graphs: deque[tuple[int, weakref.ref[Graph]]] = deque(maxlen=KEPT + 1)

    # ---- events ------------------------------------------------------------------------------

    def backward_begins(self, roots: Any) -> None:
        """Look at the loss: its value, and whether past ones have kept their graphs."""
        self._count += 1
        close = self._count <= CLOSE or self._count % SELDOM < 2 * KEPT
        if not isinstance(roots, Tensor) or not (close or roots.is_cpu):
            return
        if not is_readable(roots) or roots.numel() != 1 or roots.grad_fn is None:
            return
        if close:
            self._graph(roots.grad_fn)
        if self._over:
            return
        value = roots.item()
        if math.isfinite(value):
            self._last, self._row = value, 0
        elif self._bad is None:
            self._explain(roots.grad_fn, value)

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Note whose parameters may be spoiled."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Look whether a loss that was not finite has spoiled the parameters."""
        self.step += 1
        if self._bad is None:
            return
        (message, where), self._bad = self._bad, None
        p = _spoiled([optimizer])
        if p is not None:
            self._over = True
            message += f"; the update has written it into {self.name(p)}"
            self.report("SC109", message, step=self.step, where=where)
        else:
            self._row += 1
            if self._row == IN_A_ROW and not self._is_scaled:
                self._over = True
                message += f"; so it was in {IN_A_ROW} updates in a row"
                self.report("SC109", message, step=self.step, where=where)

    def scaling(self, scaler: Any, what: str, optimizer: torch.optim.Optimizer | None) -> None:
        """Note that a loss may be Inf because its scale is too high, which the scaler mends."""
        self._is_scaled = True

    # ---- SC109 -------------------------------------------------------------------------------

    def _explain(self, root: Any, value: float) -> None:
        """Find the first number that is not finite."""
        before = "" if self._last is None else f", after {self._last:.4g}"
        message = f"the loss is {value}{before}"
        p = _spoiled(self._optimizers)
        if p is not None:
            self._over = True
            message += f": {self.name(p)} is not finite, and was so before this forward"
            self.report("SC109", message, step=self.step)
            return
        every = list(itertools.islice(nodes(root), 10_000))
        if any(TOLD in notes(node) for node in every):
            self._over = True
            return
        with torch.no_grad():
            first = next(filter(None, map(self._fault, reversed(every))), None)
        self._bad = message + ("" if first is None else f": {first}"), here()

    def _fault(self, node: Any) -> str | None:
        """Return what is not finite in what a node has read or made."""
        for name, tensor in saved(node):
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            if not bool(tensor.isfinite().all()):
                what = "the result of" if name in ("result", "output", "out") else "what enters"
                return f"{what} {operation(node)}{self._of(node)} is not finite"
            if node.name() == "LogBackward0" and bool((tensor <= 0).any()):
                return f"log of {float(tensor.min()):.4g}"
            if node.name() == "DivBackward0" and name == "other" and bool((tensor == 0).any()):
                return "a division by 0"
        return None

    def _of(self, node: Any) -> str:
        """Return the parameter with which a node computes, if it has one."""
        near = nodes(node, frozenset((node.name(), "TBackward0", "TransposeBackward0")), limit=9)
        found = [one.variable for one in near if one.name().endswith("AccumulateGrad")]
        return f" with {self.name(max(found, key=Tensor.dim))}" if found else ""

    # ---- SC110 -------------------------------------------------------------------------------

    def _graph(self, node: Any) -> None:
        """Put a mark into the graph of this loss, and look for those of past ones."""
        while node.name() in SCALED:
            before = [one for one, _ in node.next_functions if one is not None]
            if len(before) != 1:
                break
            node = before[0]
        past = [ref for step, ref in self._graphs if step < self.step]
        if _alive(past) == KEPT:
            gc.collect()  # else a cycle of Python objects would look like a sum
            if _alive(past) == KEPT:
                self.report(
                    "SC110",
                    f"the graphs of the last {KEPT} losses are alive: something keeps losses that "
                    "can still be differentiated, such as their sum",
                    step=self.step,
                )
            self._graphs.clear()
        elif not self._graphs or self._graphs[-1][0] < self.step:
            graph = notes(node)[GRAPH] = Graph()
            self._graphs.append((self.step, weakref.ref(graph)))


def _alive(past: list["weakref.ref[Graph]"]) -> int:
    return sum(ref() is not None for ref in past[-KEPT:])


def _spoiled(optimizers: Any) -> Tensor | None:
    """Return a parameter that is not finite."""
    return next(
        (p for p in _parameters(optimizers) if is_readable(p) and not bool(p.isfinite().all())),
        None,
    )


def _parameters(optimizers: Any) -> Iterator[Tensor]:
    for optimizer in list(optimizers):
        for group in optimizer.param_groups:
            yield from group["params"]

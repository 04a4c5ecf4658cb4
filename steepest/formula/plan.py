"""Plan: a formula with its host decisions made, as one straight line per element."""

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from steepest.formula import extras as around
from steepest.formula.extras import Extras
from steepest.formula.parse import Formula
from steepest.formula.shapes import FULL, TORCH
from steepest.formula.stages import Stage, staged

NOWHERE: Mapping[str, Any] = MappingProxyType({})
"""What a host function is given besides, where there is nothing."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One straight line of a formula.

    Attributes:
        extras: what is done besides the formula.
        decisions: the host `if`s that were met, as text, with their answers.
        absent: states that do not exist before this update.
        reads, writes: the states of tensors that the line loads and stores, in the formula's order.
        numbers: the states of one number that it stores; the host computes them.
        lines: assignments, `name = expression` over p, g, states and scalars.
        shapes: of every name in them (shapes.py).
        outputs: for `p` and every written state, the expression to store.
        scalars: names of the hoisted scalars, in the order in which `host` returns them.
        objects: names of what `host` returns after them, for torch's words: tuples and the like.
        totals: names of the totals over all parameters, which `host` takes in `own`.
        after: for scalars that rest on totals, on which.
        shaped: whether the host asks for the shape of the parameter.
        host: `host(group, step, own) -> (numbers, scalars and objects)`, or None when a decision no
            longer holds; `own` gives the numbers of before by name, the totals, and `p`.
        host_source: the source of `host`.
    """

    formula: Formula
    extras: Extras
    decisions: tuple[tuple[str, bool], ...]
    absent: frozenset[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    numbers: tuple[str, ...]
    lines: tuple[tuple[str, ast.expr], ...]
    shapes: Mapping[str, str]
    outputs: Mapping[str, ast.expr]
    scalars: tuple[str, ...]
    objects: tuple[str, ...]
    totals: tuple[str, ...]
    after: Mapping[str, frozenset[str]]
    shaped: bool
    host: Callable[..., tuple[Any, ...] | None]
    host_source: str
    kernels: dict[Any, Any] = field(default_factory=dict)

    @functools.cached_property
    def states(self) -> tuple[str, ...]:
        """The states of p's shape that this plan touches, in order; the others do not exist."""
        touched = {*self.reads, *self.writes}
        shapes = self.formula.shapes
        known = (s for s in (*self.formula.states, around.AVERAGE) if shapes.get(s, FULL) == FULL)
        return tuple(state for state in known if state in touched)

    @functools.cached_property
    def arrays(self) -> tuple[str, ...]:
        """Every array that a kernel of this plan meets: p, g, the states, then torch's."""
        known = dict.fromkeys(("p", "g", *self.states))
        for stage in self.stages:
            known |= dict.fromkeys((*stage.reads, *stage.stores))
        return tuple(name for name in known if name != "_g")

    @functools.cached_property
    def untouched(self) -> frozenset[str]:
        """States of rows, columns or matrices that kernels read, or other states take over, though
        no word of torch's has had them before: they have no place among a kernel's arrays."""
        due = {s for s in self.formula.states if self.formula.shapes[s] in TORCH}
        had: set[str] = set()
        found: set[str] = set()
        for stage in self.stages:
            had |= set(stage.torch.co_names if stage.torch is not None else ())
            found |= due.intersection(stage.reads) - had
        taken = {e.id for n, e in self.outputs.items() if n in due and isinstance(e, ast.Name)}
        return frozenset(found | (taken & due))

    @functools.cached_property
    def wholes(self) -> tuple[str, ...]:
        """The numbers that kernels sum over a tensor, in the formula's order."""
        summed = {name for stage in self.stages for name in stage.wholes}
        return tuple(name for name, _ in self.lines if name in summed)

    @functools.cached_property
    def stages(self) -> Sequence[Stage]:
        """The kernels that the line is cut into; the last one writes."""
        return staged(self)

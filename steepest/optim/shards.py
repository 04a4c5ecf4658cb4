"""Shards: parameters of which each process of a mesh holds a part (DTensors: FSDP2 makes them).

Kernels update a process's own shards, as plain tensors. Whatever all elements decide (a norm,
whether all are finite) is summed over the mesh first, so that every process decides alike.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from steepest.formula import Plan

Place = tuple[Any, tuple[int, ...]]
"""A mesh, and those of its dimensions over which a tensor's elements are spread."""
Sums = Mapping[str, float]


def is_shard(t: Tensor) -> bool:
    """Tell whether a tensor is a DTensor; only a program that has one has paid for the import."""
    if type(t) in (Tensor, Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def local(t: Tensor) -> Any:
    """Return this process's part of a tensor, which may be empty; a plain tensor is its own."""
    return t._local_tensor if is_shard(t) else t  # pyright: ignore[reportAttributeAccessIssue]


def why_not_shard(plan: Plan, p: Tensor, states: Iterable[Tensor]) -> str | None:
    """Say why no kernel can serve this process's part of a parameter; None when one can.

    The answer is the same in every process, as far as the parameter is spread over several.
    """
    if not is_shard(p):
        return None
    if len(plan.stages) > 1 or plan.stages[0].torch is not None:
        return "its formula looks at the whole tensor, of which each process has a part"
    if any(_layout(t) != _layout(p) for t in (p.grad, *states)):
        return "its state is spread over other processes than itself"
    if any(placement.is_partial() for placement in _layout(p)[1]):
        return "its elements are sums over processes"
    return None


def place(p: Tensor) -> Place | None:
    """Return where a parameter's elements are spread; None for one that is whole here."""
    if not is_shard(p):
        return None
    mesh, placements = _layout(p)
    if mesh.get_coordinate() is None:
        return None
    dims = (d for d, placement in enumerate(placements) if not placement.is_replicate())
    return mesh, tuple(d for d in dims if mesh.size(d) > 1)


def _layout(t: Any) -> tuple[Any, tuple[Any, ...]]:
    return (t.device_mesh, t.placements) if is_shard(t) else (None, ())


def over_mesh(where: Place | None, numbers: list[list[float]]) -> list[list[float]]:
    """Return numbers, of which each process brings its share, summed over the mesh."""
    if where is None or not where[1] or not numbers:
        return numbers
    mesh, dims = where
    sums = torch.tensor(numbers, dtype=torch.float64, device=mesh.device_type)
    for d in dims:
        dist.all_reduce(sums, group=mesh.get_group(d))
    return sums.tolist()


class Shards:
    """The parameters that are DTensors, their parts here, and sums over their meshes.

    What is reduced over a mesh is so in the order of `params`, which is every process's: one may
    have a kernel where another, whose part is laid out otherwise, has the reference.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params: list[Any] = [p for p in params if is_shard(p)]
        self.places = list(dict.fromkeys(place(p) for p in self.params))
        self.whole: dict[Tensor, Any] = {}
        """The parameter of a part that stands for it in a launch."""
        self.states: list[tuple[Any, Tensor]] = []
        self.lent = False
        self.sums: list[tuple[Tensor, Sums]] = []
        """What the last step has summed over each parameter for the norms, over the mesh."""
        self.align()

    def take(self, p: Any, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the parts that stand for a parameter and its states in a launch."""
        if not is_shard(p):
            return p, states
        part = local(p)
        self.whole[part] = p
        parts = tuple(map(local, states))
        self.states += zip(states, parts, strict=True)
        return part, parts

    def owner(self, part: Tensor) -> Tensor:
        """Return the parameter of a part."""
        return self.whole.get(part, part)

    def align(self) -> None:
        """Lay every gradient out as its parameter is: one yet to be summed over the mesh is."""
        for p in self.params:
            g = p.grad
            if is_shard(g) and g.placements != p.placements:
                p.grad = g.redistribute(p.device_mesh, p.placements)

    @contextmanager
    def lend(self) -> Iterator[bool]:
        """Lend the parts their gradients within a `with`, which is told whether they all fit."""
        self.align()
        parts, self.lent = tuple(self.whole), True
        try:
            yield self._lend()
        finally:
            self.lent = False
            for part in parts:
                part.grad = None

    def _lend(self) -> bool:
        if any(local(t) is not part for t, part in self.states):
            return False
        for part, p in self.whole.items():
            g = p.grad
            if local(p) is not part or g is None or _layout(g) != _layout(p):
                return False
            part.grad = local(g)
        return True

    def written(self) -> None:
        """Have autograd know that the parameters have changed, as it does of their parts."""
        torch.autograd.graph.increment_version(tuple(self.whole.values()))

    def total(self, shares: Iterable[tuple[Tensor, float]]) -> float:
        """Return the sum over all parameters, by shares of which each is of one here."""
        sums: dict[Place | None, float] = dict.fromkeys([*self.places, None], 0.0)
        for p, share in shares:
            sums[place(self.owner(p))] += share
        return sum(over_mesh(where, [[share]])[0][0] for where, share in sums.items())

    def sum_up(self, shares: Iterable[tuple[Tensor, Sums]]) -> None:
        """Keep the sums over each parameter, of which each process brings its share."""
        found = {id(self.owner(p)): (self.owner(p), share) for p, share in shares}
        here = [found.pop(id(p)) for p in self.params if id(p) in found]
        self.sums = list(found.values())
        for where in self.places:
            rows = [(p, share) for p, share in here if place(p) == where]
            whole = over_mesh(where, [list(map(float, share.values())) for _, share in rows])
            for (p, share), numbers in zip(rows, whole, strict=True):
                self.sums.append((p, dict(zip(share, numbers, strict=True))))

"""Models: the modules and optimizers of a program, found in memory.

torch lists neither. A hook of every forward would tell, but each module then takes a microsecond
more, and torch.compile traces the hook and compiles anew when it goes. Python's garbage collector
knows every object: looking through them takes some milliseconds, once for each new optimizer.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

SEARCHES = 30  # a program that makes optimizers without end is not slowed down without end


class Models:
    """The outermost modules with parameters, and the optimizers; none is kept alive.

    Where models are given, these are the ones, until one looks through memory after all.
    """

    def __init__(self, given: Iterable[nn.Module] = ()) -> None:
        self._roots = [weakref.ref(model) for model in given]
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._searches = 0
        self._are_given = bool(self._roots)

    def meet(self, optimizer: torch.optim.Optimizer) -> None:
        """Note an optimizer; look for its models if none is given."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            if not self._are_given:
                self.find()

    def find(self) -> None:
        """Look through memory for both, the first times that it is asked."""
        if self._searches == SEARCHES:
            return
        self._searches += 1
        modules, optimizers = _in_memory()
        self._optimizers.update(optimizers)
        parts = {id(part) for module in modules for part in module._modules.values()}
        roots = (module for module in modules if id(module) not in parts)
        self._roots = [
            weakref.ref(root) for root in roots if next(root.parameters(), None) is not None
        ]

    def roots(self) -> list[nn.Module]:
        """Return the models that are part of no other one."""
        return [root for ref in self._roots if (root := ref()) is not None]

    def owned(self) -> set[int]:
        """Return the `id` of each parameter that some optimizer holds."""
        return {id(p) for optimizer in list(self._optimizers) for p in held(optimizer)}

    def name(self, p: Tensor) -> str | None:
        """Return a parameter's name in the first model that has it."""
        named = (pair for root in self.roots() for pair in root.named_parameters())
        return next((plain_name(name) for name, q in named if q is p), None)


def _in_memory() -> tuple[list[nn.Module], list[torch.optim.Optimizer]]:
    things = gc.get_objects()
    kinds = set(map(type, things))  # isinstance would ask proxies, which may load what they are for
    modules = {kind for kind in kinds if issubclass(kind, nn.Module)}
    optimizers = {kind for kind in kinds if issubclass(kind, torch.optim.Optimizer)}
    either = modules | optimizers
    found = [thing for thing in things if type(thing) in either]
    return (  # of those whose __init__ is done with torch's part
        [one for one in found if type(one) in modules and "_modules" in vars(one)],
        [one for one in found if type(one) in optimizers and "param_groups" in vars(one)],
    )


def held(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield the parameters of an optimizer."""
    return (p for group in optimizer.param_groups for p in group["params"])


def plain_name(name: str) -> str:
    """Return a parameter's name without what torch.compile and DDP put before it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[0] == "module" and len(parts) > 1 else parts)

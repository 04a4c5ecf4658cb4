"""Graph: a traced step, made by torch.compile, and the short way to run it.

torch looks before each run whether what the graph was made from still holds: 20 to 40
microseconds, more than a small model's step. The short way leaves that out; it is open once two
steps in a row have used the same graph with the same tensors.
"""

import gc
import re
import warnings
from collections.abc import Callable
from operator import is_
from time import perf_counter
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

import steepest.kernels.job as J
from steepest.errors import RecipeError, RunError
from steepest.kernels import cpu
from steepest.kernels.launch import Job, describe, pointers
from steepest.kernels.tensors import unfit
from steepest.train.compiled.hosted import Hosted
from steepest.train.compiled.traced import FIRST_GRADIENT, Step

ATTEMPTS = 4
"""How often a graph may be made anew, step after step, before it is given up."""

OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # dropout draws the numbers that it draws without compilation
    "size_asserts": False,  # whoever calls looks at shapes and strides
    "alignment_asserts": False,
    "cpp.vec_isa_ok": True,  # else it compiles and loads six programs to see what the CPU can
}
"""Inductor's; without the asserts a small model's step takes some microseconds less."""


class Same:
    """Tells in native code whether tensors are what and where they were, and a batch alike.

    Args:
        held: what stays: parameters, buffers, states.
        given: a batch; others must have its dtypes, shapes and strides.
    """

    def __init__(self, held: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> None:
        rows = np.full((len(given), J.GRAD + 1), -1, np.int64)
        rows[:, :2] = 0  # no part of a launch, no count of steps
        self._held = held
        self._job = Job([t.numel() for t in given], rows, torch.float32)
        describe(self._job, held, given)
        self._moved = cpu.fixed("moved").call

    def __call__(self, given: tuple[Tensor, ...]) -> bool:
        return not self._moved(pointers(given), 0, self._job.address)


class Graph:
    """One step as a graph, for batches of one shape and the model in one mode.

    Attributes:
        training: the model's mode.
        seconds: what making it has taken so far.
    """

    def __init__(self, step: Step, count: int, training: bool) -> None:
        """Take a step that returns `count` tensors."""
        self.training, self.seconds = training, 0.0
        self._step, self._count = _of_its_own(step), count
        self._checked: Any = None
        self._attempts = 0
        self._seen: tuple[Any, ...] = ()
        self._ran: Callable[..., Any] | None = None
        """What torch.compile ran last, if it gives what the step returns and nothing besides."""
        self._args: list[Any] = []
        self._held: tuple[Any, ...] = ()
        """Its arguments without the batch."""
        self._places: list[tuple[int, int]] = []
        self._hosted: Hosted | None = None
        self._same: Same | None = None

    def fits(self, given: tuple[Tensor, ...], hosted: Hosted) -> bool:
        """Tell whether it may be run over a batch as it is."""
        return self._same is not None and hosted is self._hosted and self._same(given)

    def run(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run it over a batch, the target last, once `fits` has said yes."""
        args = self._args
        for place, k in self._places:
            args[place] = given[k]
        assert self._ran is not None
        return self._ran(*args)

    def by_torch(self, given: tuple[Tensor, ...], hosted: Hosted) -> tuple[Tensor, ...]:
        """Run it as torch.compile does, which looks whether it holds, and learn when it fits.

        Raises:
            RecipeError: the step cannot be one graph.
            RunError: it is another one at each step.
        """
        aliases = tuple(t.detach() for t in given)  # no other tensor is the same object
        attempts, begin = self._attempts, perf_counter()
        outputs = self._guarded(aliases, hosted)
        if anew := self._attempts > attempts:
            gc.collect()  # what compiling leaves, or else amid the steps
            self.seconds += perf_counter() - begin
        else:
            self._attempts = 0
        places = {id(t): k for k, t in enumerate(aliases)}
        args = [None if id(a) in places else a for a in self._seen]
        self._places = [(k, places[id(a)]) for k, a in enumerate(self._seen) if id(a) in places]
        held = tuple(a for a in args if a is not None)
        again = len(held) == len(self._held) and all(map(is_, held, self._held))
        self._args, self._held, self._hosted, self._seen = args, held, hosted, ()
        plain = all(isinstance(a, Tensor) for a in held) and unfit() is None
        if anew or not again or not plain or self._ran is None:
            self._same = None
        elif self._same is None or not self._same(given):
            self._same = Same(held, given)
        return outputs

    def _guarded(self, given: tuple[Tensor, ...], hosted: Hosted) -> tuple[Tensor, ...]:
        import torch._dynamo as dynamo  # slow
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if self._attempts == ATTEMPTS:
            raise RunError(
                f"--compile step makes one graph for many steps: the model's changed {ATTEMPTS} "
                "times in a row, so it must read something in Python that each step changes; "
                "keep that in a buffer, or train without --compile step"
            )
        if self._checked is None:
            options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
            self._checked = torch.compile(self._step, backend=self._make, **options)
        *inputs, target = given
        try:
            with dynamo.config.patch(trace_autograd_ops=True):
                return self._checked(inputs, target, hosted.scalars, hosted.tensors)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise _refusal(str(error)) from error

    def _make(self, module: GraphModule, example: list[Any]) -> Callable[..., Any]:
        """Compile what torch has traced; torch.compile calls this."""
        self._attempts += 1
        results = module.graph.output_node().args[0]
        whole = isinstance(results, tuple | list) and len(results) == self._count
        made = by_inductor(module, example)

        def run(*args: Any) -> Any:
            self._seen, self._ran = args, made if whole else None
            return made(*args)

        return run


def _of_its_own(step: Step) -> Step:
    """Return a function with code of its own: torch.compile bounds the graphs of one code."""
    assert isinstance(step, FunctionType)
    code = step.__code__.replace()
    return FunctionType(code, step.__globals__, step.__name__, step.__defaults__, step.__closure__)


def by_inductor(module: GraphModule, example: list[Any]) -> Callable[..., Any]:
    """Return traced operations as native code."""
    import torch._inductor as inductor  # slow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what torch itself calls
        made: Any = inductor.compile(module, example, options=OPTIONS)
    return made


def _refusal(message: str) -> RecipeError:
    """Say in one sentence why there is no graph; torch's message takes many lines."""
    if FIRST_GRADIENT in message:
        return RecipeError(FIRST_GRADIENT)
    reason = re.sub(r"^backend='_make' raised:\s*", "", message).split("\n", 1)[0]
    context = re.search(r"Developer debug context: (.+)", message)
    place = re.findall(r'File "(.+)", line (\d+)', message.partition("from user code")[2])
    reason += f" ({context[1]})" if context else ""
    reason += f" in line {place[-1][1]} of {place[-1][0]}" if place else ""
    return RecipeError(
        f"--compile step makes one graph of the whole step, which torch.compile cannot: {reason}; "
        "train without --compile step"
    )

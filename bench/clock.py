"""Time candidates against each other: in one process, in turns, so that all meet the same noise."""

import resource
import statistics
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

Step = Callable[[], object]
Steps = dict[str, Step]
Times = dict[str, list[float]]

WARM = 8  # steps; some rules take another path in their first five
SLOW = 1.0  # seconds of a step; what is slower is run less often
BATCH = 2e-3  # seconds; shorter steps are timed several at once
CALM = 1.45  # how far a median lies above the minimum where nothing else runs


def seconds(step: Step, repeats: int = 1) -> float:
    """Return what a step takes, in seconds."""
    start = perf_counter()
    for _ in range(repeats):
        step()
    return (perf_counter() - start) / repeats


def warm(step: Step) -> float:
    """Step until nothing is compiled or allocated any more; return the seconds of a warm step."""
    step()
    took = seconds(step)
    for _ in range(WARM - 2):
        if took > SLOW:
            break
        took = seconds(step)
    return took


def enough(times: Times) -> bool:
    """Tell whether a median has its turns: seven, or three where a step takes seconds."""
    slow = any(values and values[-1] > SLOW for values in times.values())
    return all(len(values) >= (3 if slow else 7) for values in times.values())


def time_in_place(steps: Steps, duration: float) -> Times:
    """Return each candidate's times of a step, in seconds, the candidates taking turns."""
    repeats = {name: max(1, int(BATCH / warm(step))) for name, step in steps.items()}
    times: Times = {name: [] for name in steps}
    end = perf_counter() + duration
    while perf_counter() < end or not enough(times):
        for name, step in steps.items():
            times[name].append(seconds(step, repeats[name]))
    return times


def time_fresh(steps: Steps, params: list[Tensor], duration: float) -> Times:
    """The same of warm candidates, with gradients at new addresses before every step."""
    times: Times = {name: [] for name in steps}
    end = perf_counter() + duration
    while perf_counter() < end or not enough(times):
        for name, step in steps.items():
            grads = [torch.full_like(p, 1e-3) for p in params]
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            del grads
            times[name].append(seconds(step))
    return times


def medians(times: Times) -> dict[str, float]:
    """Return each candidate's median."""
    return {name: statistics.median(values) for name, values in times.items()}


def disturbed(times: Times) -> list[str]:
    """Return the candidates whose median something else on the machine has moved."""
    return [k for k, values in times.items() if statistics.median(values) > CALM * min(values)]


def faults(step: Step, took: float) -> float:
    """Return the memory pages that a warm step, which takes so many seconds, has of the system."""
    count = max(1, min(20, int(SLOW / took)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count

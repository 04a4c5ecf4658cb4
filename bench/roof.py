"""AdamW at the memory's speed: bytes a second, and what clip, average and norms add to a step."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from clock import Step, Steps, Times, medians, time_in_place
from rows import LR
from torch import Tensor

import steepest.optim as optim

SETS = ("resnet50", "gpt2")  # smaller sets live in the caches
BYTES = "AdamW's bytes a second"
EXTRAS = "AdamW + clip + EMA + norms"
TARGETS = {BYTES: 0.9, EXTRAS: 1.5}
DECAY = 0.999


def moving(params: list[Tensor]) -> tuple[Steps, dict[str, int]]:
    """Return steps that move memory, and the bytes that each reads and writes for an element."""
    size = sum(p.numel() for p in params)
    x, y, z = (torch.randn(size) for _ in range(3))
    found: dict[str, tuple[int, Step]] = {
        "mul_": (8, lambda: x.mul_(1.000001)),
        "add_": (12, lambda: x.add_(y, alpha=LR)),
        "copy_": (8, lambda: x.copy_(y)),
        "lerp_": (12, lambda: x.lerp_(y, LR)),
        "addcmul_": (16, lambda: x.addcmul_(y, z, value=LR)),
        "torch's fused AdamW": (28, torch.optim.AdamW(params, lr=LR, fused=True).step),
        "steepest": (28, optim.AdamW(params, lr=LR).step),
    }
    return {k: step for k, (_, step) in found.items()}, {k: n for k, (n, _) in found.items()}


def bytes_a_second(params: list[Tensor], duration: float) -> dict[str, Any]:
    """Compare the memory's speed under our AdamW with that under torch's operations in place."""
    steps, moved = moving(params)
    times = medians(time_in_place(steps, duration))
    size = sum(p.numel() for p in params)
    speed = {name: size * moved[name] / took / 1e9 for name, took in times.items()}
    best = max(value for name, value in speed.items() if name != "steepest")
    return {"gigabytes a second": speed, "figure": speed["steepest"] / best}


def with_torch(params: list[Tensor]) -> Step:
    """Return what torch needs for all of it, with as few passes as its functions allow."""
    step = torch.optim.AdamW(params, lr=LR, fused=True).step
    averages = [p.detach().clone() for p in params]
    before = [torch.empty_like(p) for p in params]

    @torch.no_grad()
    def clip_step_average_and_norms() -> tuple[list[Tensor], ...]:
        grad_norms = torch._foreach_norm([p.grad for p in params])
        total = torch.linalg.vector_norm(torch.stack(grad_norms))
        torch.nn.utils.clip_grads_with_norm_(params, 1.0, total)
        torch._foreach_copy_(before, params)
        step()
        torch._foreach_lerp_(averages, params, 1 - DECAY)
        torch._foreach_sub_(before, params)
        return grad_norms, torch._foreach_norm(params), torch._foreach_norm(before)

    return clip_step_average_and_norms


def with_steepest(params: list[Tensor]) -> Step:
    """Return our step with all of it; reading the norms is part of it."""
    optimizer = optim.AdamW(
        params, lr=LR, clip_norm=1.0, average="ema", average_decay=DECAY, norms=True
    )

    def step() -> None:
        optimizer.step()
        assert optimizer.norms is not None

    return step


def extras(params: list[Tensor], duration: float) -> dict[str, Any]:
    """Tell how many times a plain step a step with clip, average and norms takes."""
    steps = {
        "torch plain": torch.optim.AdamW(params, lr=LR, fused=True).step,
        "torch": with_torch(params),
        "steepest plain": optim.AdamW(params, lr=LR).step,
        "steepest": with_steepest(params),
    }
    times = time_in_place(steps, duration)
    return {
        "microseconds": {name: value * 1e6 for name, value in medians(times).items()},
        "figure": _ratio(times, "steepest", "steepest plain"),
        "figure of torch": _ratio(times, "torch", "torch plain"),
        "times faster": _ratio(times, "torch", "steepest"),
    }


def _ratio(times: Times, above: str, below: str) -> float:
    """Return the median over the turns of two candidates' ratio in the same turn."""
    pairs = zip(times[above], times[below], strict=True)
    return statistics.median(one / other for one, other in pairs)


ROOF: dict[str, Callable[[list[Tensor], float], dict[str, Any]]] = {
    BYTES: bytes_a_second,
    EXTRAS: extras,
}


def line(result: dict[str, Any]) -> str:
    """Return a result in one line."""
    name, figure = result["row"], result["figure"]
    figures = result.get("gigabytes a second") or result["microseconds"]
    unit = "GB/s" if name == BYTES else "us"
    said = f"{figure:.2f} of the best" if name == BYTES else f"{figure:.2f} times the plain step"
    if name == EXTRAS:
        said += f" (torch {result['figure of torch']:.2f})"
    reached = figure >= TARGETS[name] if name == BYTES else figure <= TARGETS[name]
    missed = "" if reached else f"  (target {TARGETS[name]})"
    listed = "  ".join(f"{k} {v:,.1f}" for k, v in figures.items())
    return f"{result['set']:10} {name:20} {said}{missed}   {unit}: {listed}"

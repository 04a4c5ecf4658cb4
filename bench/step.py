"""Time optimizer.step() against torch.optim's modes, interleaved in one process.

    python bench/step.py                  every row (some minutes)
    python bench/step.py --sets mlp gpt2  some sets of shapes

Every candidate updates the same parameters from the same gradients, in turns; a figure is the
median over the turns. "in place" leaves the gradients where they are; "fresh" allocates them anew
before each step, outside the clock, as a backward after zero_grad does.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

import torch
from record import save
from rich.console import Console
from rich.table import Table
from shapes import SHAPES
from torch import Tensor

import steepest.optim as optim
from steepest.formula import sign

Steps = dict[str, Callable[[], object]]


def lion(p, g, exp_avg, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    beta1, beta2 = betas
    p = (1 - lr * weight_decay) * p
    p = p - lr * sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return p, exp_avg


class Lion(optim.Optimizer, formula=lion):
    """A user's own optimizer (Chen et al. 2023, https://arxiv.org/abs/2302.06675)."""


class ForeachLion(torch.optim.Optimizer):
    """Lion as it is written today for speed: foreach calls over lists of tensors."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            ps = [p for p in group["params"] if p.grad is not None]
            gs = [p.grad for p in ps]
            for p in ps:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            ms = [self.state[p]["exp_avg"] for p in ps]
            torch._foreach_mul_(ps, 1 - lr * group["weight_decay"])
            update = torch._foreach_mul(ms, beta1)
            torch._foreach_add_(update, gs, alpha=1 - beta1)
            torch._foreach_sign_(update)
            torch._foreach_add_(ps, update, alpha=-lr)
            torch._foreach_mul_(ms, beta2)
            torch._foreach_add_(ms, gs, alpha=1 - beta2)


def torch_modes(name: str, params: list[Tensor], **options) -> Steps:
    kind = getattr(torch.optim, name)
    modes = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    if name in ("RMSprop", "Adadelta"):
        del modes["fused"]
    return {mode: kind(params, **options, **extra).step for mode, extra in modes.items()}


def clipped(params: list[Tensor], step: Callable) -> Callable[[], object]:
    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        step()

    return clip_and_step


def rows(params: list[Tensor]) -> Iterable[tuple[str, Callable[[], Steps], dict[str, float]]]:
    """Yield each row: its name, its candidates (the last one is ours), the ratios to reach."""

    def against(name: str, **options) -> Callable[[], Steps]:
        ours = getattr(optim, name)
        return lambda: (
            torch_modes(name, params, **options) | {"steepest": ours(params, **options).step}
        )

    fused = {"linear": 5, "mlp": 4, "manysmall": 8, "resnet50": 0.95, "gpt2": 0.95}
    unfused = {"linear": 10, "mlp": 10, "manysmall": 15, "resnet50": 5, "gpt2": 5}
    yield "SGD momentum", against("SGD", momentum=0.9, lr=1e-6), fused
    for name in ("Adam", "AdamW", "Adagrad"):
        yield name, against(name, lr=1e-6), fused
    for name in ("RMSprop", "Adadelta"):
        yield name, against(name, lr=1e-6), unfused
    yield (
        "AdamW + clip",
        lambda: (
            {k: clipped(params, s) for k, s in torch_modes("AdamW", params, lr=1e-6).items()}
            | {"steepest": optim.AdamW(params, lr=1e-6, clip_norm=1.0).step}
        ),
        {"linear": 8, "mlp": 8, "manysmall": 8, "resnet50": 1.8, "gpt2": 1.5},
    )
    yield (
        "own formula (Lion)",
        lambda: {"foreach": ForeachLion(params).step, "steepest": Lion(params).step},
        {"linear": 10, "mlp": 6, "manysmall": 10, "resnet50": 5, "gpt2": 5},
    )


def time_in_place(steps: Steps, seconds: float) -> dict[str, float]:
    """Return each candidate's median time of a step, in seconds, the candidates taking turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {}
    for name, step in steps.items():
        step(), step()
        start = time.perf_counter()
        step()
        repeats[name] = max(1, int(2e-3 / (time.perf_counter() - start)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["steepest"]) < 7:
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                step()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def time_fresh(steps: Steps, params: list[Tensor], seconds: float) -> dict[str, float]:
    """The same, with gradients at new addresses before every step."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["steepest"]) < 7:
        for name, step in steps.items():
            grads = [torch.full_like(p, 1e-3) for p in params]
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            del grads
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def faults(step: Callable) -> float:
    """Return the memory pages that a warm step takes from the system."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20


FIRST = """
import time, torch
p = torch.zeros(64, 64, requires_grad=True)
p.grad = torch.ones_like(p)
import torch.optim.lr_scheduler
start = time.perf_counter()
import steepest.optim
imported = time.perf_counter()
steepest.optim.Adam([p]).step()
print(imported - start, time.perf_counter() - start)
"""


def first_step() -> dict[str, float]:
    """Return seconds from before the import to after the first step, in fresh processes."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty cache", "warm cache", "warm cache again"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST],
                env={"PATH": "", "STEEPEST_CACHE_DIR": folder},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            imported, total = map(float, done.stdout.split())
            result[cache] = total
            result["import alone"] = imported
    return result


def measure(names: list[str], seconds: float, console: Console) -> list[dict]:
    results = []
    for name in names:
        torch.manual_seed(0)
        params = [torch.randn(shape).requires_grad_() for shape in SHAPES[name]]
        for p in params:
            p.grad = torch.randn_like(p)
        for row, make, targets in rows(params):
            steps = make()
            in_place = time_in_place(steps, seconds)
            taken = faults(steps["steepest"])
            fresh = time_fresh(steps, params, seconds)
            result = {"set": name, "row": row, "target": targets[name], "faults": taken}
            for column, times in (("in place", in_place), ("fresh", fresh)):
                best = min(value for key, value in times.items() if key != "steepest")
                result[column] = {k: v * 1e6 for k, v in times.items()}
                result[f"ratio {column}"] = best / times["steepest"]
            results.append(result)
            console.print(line(result))
    return results


def line(r: dict) -> str:
    times = "  ".join(f"{k} {v:,.1f}" for k, v in r["in place"].items())
    reached = "" if r["ratio in place"] >= r["target"] else f"  (target {r['target']})"
    return (
        f"{r['set']:10} {r['row']:20} x{r['ratio in place']:.2f} in place, "
        f"x{r['ratio fresh']:.2f} fresh{reached}   us: {times}   faults {r['faults']:.1f}"
    )


def table(results: list[dict]) -> Table:
    sets = list(dict.fromkeys(r["set"] for r in results))
    out = Table("times faster than torch's best mode", *sets, title="in place / fresh")
    for row in dict.fromkeys(r["row"] for r in results):
        found = {r["set"]: r for r in results if r["row"] == row}
        cells = [f"{found[s]['ratio in place']:.1f} / {found[s]['ratio fresh']:.1f}" for s in sets]
        out.add_row(row, *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=2.0, help="per row and column")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    first = first_step()
    console.print("seconds to the first step:", {k: round(v, 3) for k, v in first.items()})
    results = measure(options.sets, options.seconds, console)
    console.print(table(results))
    if options.sets == list(SHAPES):
        save("step", {"first step, seconds": first, "steps, microseconds": results})


if __name__ == "__main__":
    main()

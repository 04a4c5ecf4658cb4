"""What is compared with torch.optim: each row its candidates, and how many times faster to be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from clock import Step, Steps
from torch import Tensor

import steepest.optim as optim
from steepest.formula import sign

LR = 1e-6  # so small that thousands of steps leave the parameters ordinary numbers
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")  # torch has a fused kernel
LOOP_ONLY = ("Muon",)  # torch has a loop over the tensors alone


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    candidates: Callable[[list[Tensor]], Steps]
    """Makes, for some parameters, the steps to compare; ours is "steepest"."""
    targets: dict[str, float]
    """By set of shapes: torch's best time over ours must reach this."""
    matrices: bool = False
    """Whether only parameters of two dimensions take part."""


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


def torch_modes(name: str, params: list[Tensor], **options: Any) -> Steps:
    """Return torch's steps, a mode each."""
    kind = getattr(torch.optim, name)
    modes: dict[str, dict[str, Any]] = {"default": {}}
    if name not in LOOP_ONLY:
        modes["foreach"] = {"foreach": True}
    if name in FUSED:
        modes["fused"] = {"fused": True}
    return {mode: kind(params, **options, **extra).step for mode, extra in modes.items()}


def against_torch(name: str, **options: Any) -> Callable[[list[Tensor]], Steps]:
    """Return what makes torch's modes and ours."""
    ours = getattr(optim, name)
    options = {"lr": LR, **options}
    return lambda params: (
        torch_modes(name, params, **options) | {"steepest": ours(params, **options).step}
    )


def clipped(params: list[Tensor], step: Step) -> Step:
    """Return a step as it is clipped with torch."""

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        step()

    return clip_and_step


def clipped_adamw(params: list[Tensor]) -> Steps:
    """Return AdamW with clipping by norm."""
    theirs = {k: clipped(params, s) for k, s in torch_modes("AdamW", params, lr=LR).items()}
    return theirs | {"steepest": optim.AdamW(params, lr=LR, clip_norm=1.0).step}


def own_formula(params: list[Tensor]) -> Steps:
    """Return a user's own rule, as a formula and in foreach calls."""
    return {"foreach": ForeachLion(params).step, "steepest": Lion(params).step}


def _targets(linear: float, mlp: float, manysmall: float, resnet50: float, gpt2: float):
    return {
        "linear": linear, "mlp": mlp, "manysmall": manysmall, "resnet50": resnet50, "gpt2": gpt2,
    }  # fmt: skip


_fused = _targets(5, 4, 8, 0.95, 0.95)
_unfused = _targets(6, 6, 20, 4, 4)
_whole = _targets(1, 1, 1, 1, 1)
_rprop = {"step_sizes": (1e-9, LR)}  # the sizes would grow without end, for gradients stay the same

ROWS = [
    Row("SGD momentum", against_torch("SGD", momentum=0.9), _fused),
    *(Row(name, against_torch(name), _fused) for name in ("Adam", "AdamW", "Adagrad")),
    *(
        Row(name, against_torch(name), _unfused)
        for name in ("RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD")
    ),
    Row("Rprop", against_torch("Rprop", **_rprop), _unfused),
    Row("Adafactor", against_torch("Adafactor"), _whole),
    Row("Muon", against_torch("Muon"), _whole, matrices=True),
    Row("AdamW + clip", clipped_adamw, _targets(8, 8, 8, 1.8, 1.5)),
    Row("own formula (Lion)", own_formula, _targets(10, 6, 10, 5, 5)),
]

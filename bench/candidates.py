"""Optimizers of other packages beside ours, with the same hyperparameters.

Each is imported when it is made, so that what its import takes counts into its first step.
"""

from collections.abc import Callable

import torch
from clock import Step
from torch import Tensor

Make = Callable[[list[Tensor]], Step]

LR = 1e-6  # so small that thousands of steps leave the parameters ordinary numbers
BETAS = (0.9, 0.999)
EPS = 1e-8
DECAY = 0.01
ADAMW = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
LION = {"lr": LR, "betas": (0.9, 0.99), "weight_decay": DECAY}


def steepest(name: str, **options) -> Make:
    """Return what makes ours."""

    def make(params: list[Tensor]) -> Step:
        from steepest import optim

        return getattr(optim, name)(params, **options).step

    return make


def torch_fused(params: list[Tensor]) -> Step:
    return torch.optim.AdamW(params, fused=True, **ADAMW).step


def torch_compiled(params: list[Tensor]) -> Step:
    """torch's own way to a fused kernel: https://docs.pytorch.org/tutorials/recipes/compiling_optimizer.html"""
    optimizer = torch.optim.AdamW(params, foreach=True, **ADAMW)
    return torch.compile(lambda: optimizer.step(), fullgraph=False)


def deepspeed(params: list[Tensor]) -> Step:
    """Its C++ is compiled when it is first made on a machine."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(params, **ADAMW).step


def heavyball(params: list[Tensor]) -> Step:
    from heavyball import AdamW

    # Without consume_grad=False it sets the gradients to None: there would be no second step.
    return AdamW(params, consume_grad=False, **ADAMW).step


def optimi(name: str, **options) -> Make:
    """Return what makes one of optimi's."""

    def make(params: list[Tensor]) -> Step:
        import optimi

        return getattr(optimi, name)(params, foreach=True, **options).step

    return make


def optax(params: list[Tensor]) -> Step:
    """On copies: its arrays cannot be changed in place, but donated ones are used again."""
    import jax
    import optax

    jax.config.update("jax_platforms", "cpu")
    rule = optax.adamw(LR, b1=BETAS[0], b2=BETAS[1], eps=EPS, weight_decay=DECAY)
    values = [jax.numpy.array(p.detach().numpy()) for p in params]
    grads = [jax.numpy.array(p.grad.numpy()) for p in params]
    kept = [values, rule.init(values)]

    @jax.jit(donate_argnums=(0, 1))
    def update(values, state, grads):
        change, state = rule.update(grads, state, values)
        return optax.apply_updates(values, change), state

    def step() -> None:
        kept[:] = update(*kept, grads)
        jax.block_until_ready(kept)

    return step


def pytorch_optimizer(compiled: bool) -> Make:
    """Return what makes its Lion; its AdamW is torch's own class."""

    def make(params: list[Tensor]) -> Step:
        from pytorch_optimizer import Lion

        optimizer = Lion(params, foreach=True, **LION)
        if compiled:
            optimizer._compile_foreach()  # what its create_optimizer(compile=True) calls
        return optimizer.step

    return make


def schedulefree(params: list[Tensor]) -> Step:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(params, foreach=True, **ADAMW)
    optimizer.train()
    return optimizer.step


RULES: dict[str, dict[str, Make]] = {
    "AdamW": {
        "steepest": steepest("AdamW", **ADAMW),
        "torch fused": torch_fused,
        "torch.compile": torch_compiled,
        "DeepSpeed CPUAdam": deepspeed,
        "heavyball": heavyball,
        "optimi": optimi("AdamW", **ADAMW),
        "optax, jit": optax,
    },
    "Lion": {
        "steepest": steepest("Lion", **LION),
        "pytorch_optimizer": pytorch_optimizer(compiled=False),
        "pytorch_optimizer, compiled": pytorch_optimizer(compiled=True),
        "optimi": optimi("Lion", **LION),
    },
    "schedule-free AdamW": {
        "steepest": steepest("ScheduleFreeAdamW", **ADAMW),
        "schedulefree": schedulefree,
    },
}
"""By rule, the candidates; ours comes first."""

PACKAGES = [
    "deepspeed", "heavyball", "torch-optimi", "optax", "jax", "pytorch_optimizer", "schedulefree",
]  # fmt: skip

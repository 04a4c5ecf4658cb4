"""The optimizers: torch.optim's names, each one formula that runs as fused kernels.

`import steepest.optim as optim` stands in for `import torch.optim as optim`.
"""

# Written by `python -m steepest.optim.stub`; change the formulas, not this file.

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from steepest.optim import lr_scheduler
from steepest.optim.groups import groups as groups
from steepest.optim.optimizer import Optimizer

__all__ = [
    "LBFGS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "groups",
    "lr_scheduler",
]

_Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

class LBFGS(Optimizer):
    """Limited-memory BFGS: steps by curvature, for a loss that can be evaluated again.

    One `step(closure)` makes up to `max_iter` updates. It suits a smooth loss over all data.

    Args:
        params: the parameters, in one group.
        lr: the length of an update, or the first that the line search tries.
        max_iter: most updates in one step.
        max_eval: most evaluations of the loss in one step; `max_iter * 5 // 4` if left out.
        tolerance_grad: the step ends when no element of the gradient is larger.
        tolerance_change: the step ends when the loss or the parameters change no more than this.
        history_size: how many updates are remembered, two vectors of all parameters for each.
        line_search_fn: "strong_wolfe", or None for updates of length `lr`.
        clip_norm: must stay None: a scaled gradient is not that of the loss that is searched.
    """

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-07,
        tolerance_change: float = 1e-09,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        clip_norm: float | None = None,
    ) -> None: ...

class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        momentum: float | Tensor = 0.0,
        dampening: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class AdEMAMix(Optimizer):
    """AdamW that remembers gradients of thousands of steps ago."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float | Tensor = 2.0,
        beta3_warmup: float | Tensor | None = None,
        alpha_warmup: float | Tensor | None = None,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class AdaBelief(Optimizer):
    """Adam that takes long steps where gradients are as expected."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adadelta(Optimizer):
    """Adadelta: no learning rate to tune, as the paper has it."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 1.0,
        rho: float | Tensor = 0.9,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adagrad(Optimizer):
    """Adagrad, with a learning rate that may decay as 1 / (1 + (step - 1) * lr_decay)."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.01,
        lr_decay: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        initial_accumulator_value: float | Tensor = 0.0,
        eps: float | Tensor = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adam(Optimizer):
    """Adam with L2 weight decay; `AdamW` decouples the decay from the moments."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class AdamW(Optimizer):
    """Adam with decoupled weight decay; the decay shrinks p before Adam's own step."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adamax(Optimizer):
    """Adam with the infinity norm in place of the mean of squares."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.002,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adan(Optimizer):
    """Adaptive Nesterov momentum; its weight decay is a proximal step, with `no_prox` AdamW's."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        no_prox: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Lion(Optimizer):
    """Every element moves by lr; wants an lr of a third to a tenth of AdamW's."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.0001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class RAdam(Optimizer):
    """Adam whose variance is rectified, so that it needs no warmup."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class RMSprop(Optimizer):
    """RMSprop, with momentum, and centered by the running mean of the gradient."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.01,
        alpha: float | Tensor = 0.99,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        momentum: float | Tensor = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Rprop(Optimizer):
    """Resilient backpropagation: every element has a step size of its own."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.01,
        etas: tuple[float | Tensor, float | Tensor] = (0.5, 1.2),
        step_sizes: tuple[float | Tensor, float | Tensor] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class SparseAdam(Optimizer):
    """Adam for sparse gradients, such as those of `nn.Embedding(sparse=True)`."""

    def __init__(
        self,
        params: _Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        maximize: bool = False,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | Tensor | None = None,
        average: float | Tensor | None = None,
        average_decay: float | Tensor = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

"""The optimizers: torch.optim's names, each one formula that runs as fused kernels.

`import steepest.optim as optim` stands in for `import torch.optim as optim`. Each optimizer is
read when it is first used: all of them would take a tenth of a second.
"""

# Written by `python -m steepest.optim.stub`; change the formulas, not this file.

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from torch import Tensor
from torch.optim import swap_in_optimizer_params_and_state as swap_in_optimizer_params_and_state

from steepest.optim import lr_scheduler as lr_scheduler
from steepest.optim import swa_utils as swa_utils
from steepest.optim.groups import groups as groups
from steepest.optim.groups import matrices as matrices
from steepest.optim.lbfgs import LBFGS as LBFGS
from steepest.optim.mixed import Mixed as Mixed
from steepest.optim.optimizer import Optimizer as Optimizer
from steepest.optim.schedule_free import ScheduleFree

__all__ = [
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "Adan",
    "AdEMAMix",
    "ASGD",
    "CautiousAdamW",
    "CautiousLion",
    "LAMB",
    "LARS",
    "LBFGS",
    "Lion",
    "Mixed",
    "Muon",
    "NAdam",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SGD",
    "SOAP",
    "SparseAdam",
    "Optimizer",
    "groups",
    "lr_scheduler",
    "matrices",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]

_Number = float | Tensor | Callable[[int], float]
_Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

class AdaBelief(Optimizer):
    """Adam that takes long steps where gradients are as expected."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-16,
        weight_decay: _Number = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adadelta(Optimizer):
    """Adadelta: no learning rate to tune, as the paper has it."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 1.0,
        rho: _Number = 0.9,
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adafactor(Optimizer):
    """Adam's scaling with memory for one number a row and one a column."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.01,
        beta2_decay: _Number = -0.8,
        eps: tuple[_Number | None, _Number] = (None, 0.001),
        d: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adagrad(Optimizer):
    """Adagrad, with a learning rate that may decay as 1 / (1 + (step - 1) * lr_decay)."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.01,
        lr_decay: _Number = 0.0,
        weight_decay: _Number = 0.0,
        initial_accumulator_value: _Number = 0.0,
        eps: _Number = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adam(Optimizer):
    """Adam with L2 weight decay; `AdamW` decouples the decay from the moments."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adamax(Optimizer):
    """Adam with the infinity norm in place of the mean of squares."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class AdamW(Optimizer):
    """Adam with decoupled weight decay; the decay shrinks p before Adam's own step."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Adan(Optimizer):
    """Adaptive Nesterov momentum; its weight decay is a proximal step, with `no_prox` AdamW's."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number, _Number] = (0.98, 0.92, 0.99),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        no_prox: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class AdEMAMix(Optimizer):
    """AdamW that remembers gradients of thousands of steps ago."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number, _Number] = (0.9, 0.999, 0.9999),
        alpha: _Number = 2.0,
        beta3_warmup: _Number | None = None,
        alpha_warmup: _Number | None = None,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class ASGD(Optimizer):
    """SGD that keeps the average of its iterates from step t0 on."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.01,
        lambd: _Number = 0.0001,
        alpha: _Number = 0.75,
        t0: _Number = 1000000.0,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class CautiousAdamW(Optimizer):
    """AdamW without the elements whose momentum disagrees with the gradient."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class CautiousLion(Optimizer):
    """Lion without the elements whose momentum disagrees with the gradient."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.0001,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class LAMB(Optimizer):
    """Adam for large batches: lr is the part of its norm by which a tensor moves."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        bias_correction: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class LARS(Optimizer):
    """Momentum for large batches: every matrix moves by a part of its own norm."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        momentum: _Number = 0.9,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        trust_coefficient: _Number = 0.001,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Lion(Optimizer):
    """Every element moves by lr; wants an lr of a third to a tenth of AdamW's."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.0001,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Muon(Optimizer):
    """Momentum orthogonalized, for the matrices of a network's hidden layers."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        weight_decay: _Number = 0.1,
        momentum: _Number = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[_Number, _Number, _Number] = (3.4445, -4.775, 2.0315),
        eps: _Number = 1e-07,
        ns_steps: _Number = 5,
        adjust_lr_fn: str | None = None,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class NAdam(Optimizer):
    """Adam with Nesterov's momentum, of which `momentum_decay` sets how fast it grows."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        momentum_decay: _Number = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Prodigy(Optimizer):
    """Adam without a learning rate to tune: lr=1 scales the step size that it finds."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 1.0,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        beta3: _Number | None = None,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: _Number = 1e-06,
        d_coef: _Number = 1.0,
        growth_rate: _Number = inf,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class RAdam(Optimizer):
    """Adam whose variance is rectified, so that it needs no warmup."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class RMSprop(Optimizer):
    """RMSprop, with momentum, and centered by the running mean of the gradient."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.01,
        alpha: _Number = 0.99,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        momentum: _Number = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class Rprop(Optimizer):
    """Resilient backpropagation: every element has a step size of its own."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.01,
        etas: tuple[_Number, _Number] = (0.5, 1.2),
        step_sizes: tuple[_Number, _Number] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class ScheduleFreeAdamW(ScheduleFree):
    """AdamW without a schedule; evaluate `with optimizer.averaged():`."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.0025,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        warmup_steps: _Number = 0,
        r: _Number = 0.0,
        weight_lr_power: _Number = 2.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class ScheduleFreeSGD(ScheduleFree):
    """SGD without a schedule; evaluate `with optimizer.averaged():`."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 1.0,
        momentum: _Number = 0.9,
        weight_decay: _Number = 0.0,
        warmup_steps: _Number = 0,
        r: _Number = 0.0,
        weight_lr_power: _Number = 2.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class SOAP(Optimizer):
    """Adam in the bases in which a matrix's rows and its columns are uncorrelated."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.003,
        betas: tuple[_Number, _Number] = (0.95, 0.95),
        shampoo_beta: _Number | None = None,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        precondition_frequency: _Number = 10,
        max_precondition_dim: _Number = 10000,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

class SparseAdam(Optimizer):
    """Adam for sparse gradients, such as those of `nn.Embedding(sparse=True)`."""

    def __init__(
        self,
        params: _Params,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        maximize: bool = False,
        *,
        fused: bool | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: str | None = None,
        average_decay: _Number = 0.999,
        zero_grad: bool = False,
        norms: bool = False,
        skip_nonfinite: bool = False,
    ) -> None: ...

"""AdamW: Adam whose weight decay does not pass through the moments.

Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101
Differs from the paper, as torch does: the decay is multiplied by the learning rate.
"""

from steepest.optim.adam import adam
from steepest.optim.optimizer import Optimizer


class AdamW(
    Optimizer,
    formula=adam,
    defaults={"weight_decay": 1e-2},
    fixed={"decoupled_weight_decay": True},
    options=("*", "maximize", "foreach", "capturable", "differentiable", "fused"),
):
    """Adam with decoupled weight decay; the decay shrinks p before Adam's own step."""

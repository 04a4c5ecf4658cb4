"""Weight averaging: torch's own classes, which work with any model and any optimizer.

An average that the optimizer keeps in its own pass over the parameters is `average=` of every
optimizer here; `AveragedModel` is a copy of the model that a call of `update_parameters` moves.
"""

from torch.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

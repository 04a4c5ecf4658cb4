"""The optimizers: torch.optim's names, each one formula that runs as fused kernels.

`import steepest.optim as optim` stands in for `import torch.optim as optim`. Each optimizer is
read when it is first used: all of them would take a tenth of a second.
"""

import importlib
from typing import Any

from torch.optim import swap_in_optimizer_params_and_state

from steepest.optim import lr_scheduler, swa_utils
from steepest.optim.groups import groups, matrices
from steepest.optim.optimizer import Optimizer

HOMES = {
    "AdaBelief": "adabelief",
    "Adadelta": "adadelta",
    "Adafactor": "adafactor",
    "Adagrad": "adagrad",
    "Adam": "adam",
    "Adamax": "adamax",
    "AdamW": "adamw",
    "Adan": "adan",
    "AdEMAMix": "ademamix",
    "ASGD": "asgd",
    "CautiousAdamW": "cautious_adamw",
    "CautiousLion": "cautious_lion",
    "LAMB": "lamb",
    "LARS": "lars",
    "LBFGS": "lbfgs",
    "Lion": "lion",
    "Mixed": "mixed",
    "Muon": "muon",
    "NAdam": "nadam",
    "Prodigy": "prodigy",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "Rprop": "rprop",
    "ScheduleFreeAdamW": "schedule_free_adamw",
    "ScheduleFreeSGD": "schedule_free_sgd",
    "SGD": "sgd",
    "SOAP": "soap",
    "SparseAdam": "sparse_adam",
}
"""The file of each optimizer."""

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *HOMES,
    "Optimizer",
    "groups",
    "lr_scheduler",
    "matrices",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'steepest.optim' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

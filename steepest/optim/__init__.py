"""The optimizers: torch.optim's names, each one formula that runs as fused kernels.

`import steepest.optim as optim` stands in for `import torch.optim as optim`.
"""

from torch.optim import swap_in_optimizer_params_and_state

from steepest.optim import lr_scheduler, swa_utils
from steepest.optim.adabelief import AdaBelief
from steepest.optim.adadelta import Adadelta
from steepest.optim.adafactor import Adafactor
from steepest.optim.adagrad import Adagrad
from steepest.optim.adam import Adam
from steepest.optim.adamax import Adamax
from steepest.optim.adamw import AdamW
from steepest.optim.adan import Adan
from steepest.optim.ademamix import AdEMAMix
from steepest.optim.asgd import ASGD
from steepest.optim.cautious_adamw import CautiousAdamW
from steepest.optim.cautious_lion import CautiousLion
from steepest.optim.groups import groups, matrices
from steepest.optim.lamb import LAMB
from steepest.optim.lars import LARS
from steepest.optim.lbfgs import LBFGS
from steepest.optim.lion import Lion
from steepest.optim.mixed import Mixed
from steepest.optim.muon import Muon
from steepest.optim.nadam import NAdam
from steepest.optim.optimizer import Optimizer
from steepest.optim.prodigy import Prodigy
from steepest.optim.radam import RAdam
from steepest.optim.rmsprop import RMSprop
from steepest.optim.rprop import Rprop
from steepest.optim.schedule_free_adamw import ScheduleFreeAdamW
from steepest.optim.schedule_free_sgd import ScheduleFreeSGD
from steepest.optim.sgd import SGD
from steepest.optim.soap import SOAP
from steepest.optim.sparse_adam import SparseAdam

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "CautiousAdamW",
    "CautiousLion",
    "Lion",
    "Mixed",
    "Muon",
    "NAdam",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "groups",
    "lr_scheduler",
    "matrices",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]

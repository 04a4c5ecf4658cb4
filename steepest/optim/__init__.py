"""The optimizers: torch.optim's names, each one formula that runs as fused kernels.

`import steepest.optim as optim` stands in for `import torch.optim as optim`.
"""

from steepest.optim import lr_scheduler
from steepest.optim.adadelta import Adadelta
from steepest.optim.adagrad import Adagrad
from steepest.optim.adam import Adam
from steepest.optim.adamw import AdamW
from steepest.optim.optimizer import Optimizer
from steepest.optim.rmsprop import RMSprop
from steepest.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "lr_scheduler",
]

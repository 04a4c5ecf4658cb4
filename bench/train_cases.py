"""What the training benchmarks train: the same rows, model and optimizer for everyone."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from steepest.data import synthetic

ROWS, HELD_OUT = 10_000, 1_000
Timed = tuple[float, float]
"""Microseconds per training batch, and the loss over the training rows afterwards."""


@dataclass(frozen=True)
class Case:
    """What is trained, and how many times less than others a batch must take.

    Attributes:
        plain: than the plain DataLoader loop.
        peers: than each of the other packages that run on torch.
    """

    name: str
    features: int
    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    plain: float
    peers: float

    @property
    def steps(self) -> int:
        """How many batches a training has."""
        return self.epochs * -(-ROWS // self.batch_size)


CASES = [
    Case("linear regression, SGD, batch 32", 1, "SGD", 0.01, 32, 16, 3.0, 4.0),
    Case("MLP 13-64-64-1, Adam, batch 32", 13, "Adam", 1e-3, 32, 16, 2.5, 3.0),
    Case("MLP 13-64-64-1, Adam, batch 256", 13, "Adam", 1e-3, 256, 80, 4.0, 3.0),
]


@cache
def _rows(case: Case) -> tuple[Tensor, Tensor]:
    if case.features == 1:
        return synthetic.line(rows=ROWS + HELD_OUT)
    made = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS + HELD_OUT, case.features, generator=made)
    return x, torch.sin(x).sum(1, keepdim=True)


def training_rows(case: Case) -> tuple[Tensor, Tensor]:
    """Return 10,000 rows of features and targets."""
    x, y = _rows(case)
    return x[:ROWS], y[:ROWS]


def held_out(case: Case) -> tuple[Tensor, Tensor]:
    """Return the 1,000 rows that are validated after each epoch."""
    x, y = _rows(case)
    return x[ROWS:], y[ROWS:]


def make_model(case: Case) -> nn.Module:
    """Return the same model at each call."""
    torch.manual_seed(0)
    if case.features == 1:
        return nn.Linear(1, 1)
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(13, 64), relu, nn.Linear(64, 64), relu, nn.Linear(64, 1))


@torch.no_grad()
def final_loss(case: Case, model: nn.Module) -> float:
    """Return the loss over all training rows."""
    x, y = training_rows(case)
    return nn.functional.mse_loss(model(x), y).item()

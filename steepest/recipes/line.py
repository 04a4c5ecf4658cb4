"""Fit a line to made-up points: y = 3x + noise."""

import torch
from torch import nn

from steepest import optim
from steepest.data import Batches, synthetic
from steepest.train import Run


def run(
    lr: float = 0.1,
    epochs: int = 5,
    batch_size: int = 32,
    rows: int = 10_000,
    slope: float = 3.0,
    noise: float = 0.1,
    momentum: float = 0.0,
    seed: int = 0,
    device: str | None = None,
) -> Run:
    """Fit a line to made-up points, y = 3x + noise, with one weight and one bias by SGD.

    Args:
        lr: learning rate
        epochs: how often to go through the points
        batch_size: points per update
        rows: points to make; a fifth of them is kept for validation
        slope: slope of the line that the points lie on
        noise: standard deviation of the noise around the line
        momentum: momentum of SGD
        seed: seed of the points, of the model and of the order
        device: cpu, cuda, ...; chosen if left out
    """
    torch.manual_seed(seed)
    x, y = synthetic.line(rows=rows, slope=slope, noise=noise, seed=seed)
    held_out = rows // 5
    model = nn.Linear(1, 1)
    return Run(
        model=model,
        optimizer=optim.SGD(model.parameters(), lr=lr, momentum=momentum),
        loss_fn=nn.MSELoss(),
        batches=Batches(x[held_out:], y[held_out:], batch_size=batch_size, seed=seed),
        validation=validation_batches(x[:held_out], y[:held_out]),
        epochs=epochs,
        device=device,
        threads=1,
        seed=seed,
        name="line",
        result=sentence,
    )


def validation_batches(x: torch.Tensor, y: torch.Tensor) -> Batches | None:
    """Return the rows in order, in large batches; None if there is no row."""
    return Batches(x, y, batch_size=1024, shuffle=False) if len(x) else None


def sentence(model: nn.Linear) -> str:
    """Say what the model has learned."""
    return f"learned y = {model.weight.item():.4f} x {model.bias.item():+.4f}"

"""Learn a made-up surface: z = sin(3x) + y², from noisy points."""

# Train it:         steepest train FILE
# See its options:  steepest train FILE --help
# Find its lr:      steepest find-lr FILE

import torch
from torch import Tensor, nn

from steepest import optim, schedules
from steepest.data import Batches
from steepest.train import Run, metrics_for


# 1. OPTIONS. The arguments of `run` are the options of the command line (--lr, --batch-size, ...):
#    their types are checked, their defaults and the lines under `Args:` are its help. `run` may be
#    called from Python as well: `steepest.train(run(lr=0.01))`.
def run(
    lr: float = 0.01,
    epochs: int = 20,
    batch_size: int = 64,
    width: int = 32,
    seed: int = 0,
    device: str | None = None,
) -> Run:
    """Learn a made-up surface from noisy points, with a small network.

    Args:
        lr: highest learning rate; it falls to 0 along a cosine
        epochs: how often to go through the points
        batch_size: points per update
        width: width of the hidden layers
        seed: seed of the points, of the model and of the order
        device: cpu, cuda, ...; chosen if left out
    """
    # 2. DATA. Tensors whose rows belong together. Batches may also be a torch DataLoader, or
    #    anything that can be iterated once per epoch and gives (*inputs, target).
    x, y = points(2500, seed)
    held_out = len(x) // 5
    batches = Batches(x[held_out:], y[held_out:], batch_size=batch_size, seed=seed)

    # 3. MODEL. Any nn.Module; it is called with a batch's inputs.
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    )

    # 4. RUN. The loss is a function (prediction, target) -> number; the optimizer is any of torch's
    #    or of steepest's (`steepest list`); metrics are measured on the validation batches.
    return Run(
        model=model,
        optimizer=optim.AdamW(model.parameters(), lr=lr),
        loss_fn=nn.MSELoss(),
        batches=batches,
        validation=Batches(x[:held_out], y[:held_out], batch_size=1024, shuffle=False),
        metrics=metrics_for("regression"),
        epochs=epochs,
        schedule=schedules.cosine(total=epochs * len(batches)),
        seed=seed,
        device=device,
        name="surface",
        result=sentence,
    )


def points(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make points (rows, 2) and their heights (rows, 1). Yours: read a file here."""
    chance = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(rows, 2, generator=chance) - 1
    height = (3 * x[:, :1]).sin() + x[:, 1:] ** 2
    return x, height + 0.1 * torch.randn(rows, 1, generator=chance)


# 5. RESULT. A sentence about the trained model for the summary; leave it out if there is none.
@torch.no_grad()
def sentence(model: nn.Module) -> str:
    """Say what the model has learned of a point whose height is known."""
    point = torch.tensor([[0.5, 0.5]], device=next(model.parameters()).device)
    return f"the height at (0.5, 0.5) is {model(point).item():.3f} (in truth 1.247)"

"""Tell handwritten digits apart: a small convolutional network."""

import torch
from torch import Tensor, nn

from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.train import Run, metrics_for


def run(
    width: int = 16,
    lr: float = 3e-3,
    epochs: int = 20,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
) -> Run:
    """Tell scikit-learn's 1,797 handwritten digits apart, by convolutions over 8 x 8 pixels.

    Args:
        width: channels of the first convolution; the others have twice as many
        lr: highest learning rate; it rises over a twentieth of the run and falls along a cosine
        epochs: how often to go through the digits
        batch_size: digits per update
        seed: seed of the split, of the model and of the order
        device: cpu, cuda, ...; chosen if left out
    """
    images, digits = load()
    torch.manual_seed(seed)
    held_out, rows = torch.randperm(len(images)).tensor_split([len(images) // 5])
    batches = Batches(images[rows], digits[rows], batch_size=batch_size, seed=seed)
    model = network(width)
    updates = epochs * len(batches)
    return Run(
        model=model,
        optimizer=optim.AdamW(model.parameters(), lr=lr),
        loss_fn=nn.CrossEntropyLoss(),
        batches=batches,
        validation=Batches(images[held_out], digits[held_out], batch_size=512, shuffle=False),
        epochs=epochs,
        schedule=schedules.cosine(total=updates, warmup=updates // 20),
        metrics=metrics_for("classification", classes=10),
        device=device,
        threads=1,
        seed=seed,
        name="digits",
        result=lambda model: sentence(model, images[held_out], digits[held_out]),
    )


def network(width: int) -> nn.Sequential:
    """Return three convolutions and a linear layer: images (n, 1, 8, 8) -> scores (n, 10)."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 2 * width)):
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        if inputs > 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * width, 10))


def load() -> tuple[Tensor, Tensor]:
    """Return images (1797, 1, 8, 8), from 0 to 1, and what they show (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RecipeError("digits needs scikit-learn: pip install 'steepest[digits]'") from None
    pixels, digits = load_digits(return_X_y=True)
    return torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(digits)


@torch.no_grad()
def sentence(model: nn.Module, images: Tensor, digits: Tensor) -> str:
    """Say how many digits are read rightly that the model has not trained on."""
    device = next(model.parameters()).device
    right = (model.eval()(images.to(device)).argmax(1).cpu() == digits).float().mean().item()
    return f"{right:.1%} of {len(digits)} held-out digits are read rightly (by guessing: 10%)"

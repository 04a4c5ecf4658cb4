"""steepest's own recipes and optimizers."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from steepest import optim
from steepest.clip import clip_grad_norm_
from steepest.recipes import chars, digits, line, table
from steepest.train import train

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=GENERATOR)
Y = X.sum(1, keepdim=True)
EXAMPLES = Path(__file__).parents[3] / "examples"


def _mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def _train(run):
    with tempfile.TemporaryDirectory() as folder:
        return train(replace(run, progress=False, folder=Path(folder) / "run"))


def recipe_line():
    _train(line.run(epochs=2, rows=400))


def recipe_table():
    _train(table.run(EXAMPLES / "diabetes.csv", "progression", hidden=(8,), epochs=3, warmup=4))


def recipe_digits():
    _train(digits.run(width=4, epochs=2))


def recipe_chars():
    _train(chars.run(context=16, width=8, layers=1, heads=2, sample=5, epochs=1))


def every_formula(tell):
    names = (
        "AdaBelief", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Adan",
        "AdEMAMix", "ASGD", "CautiousAdamW", "CautiousLion", "LAMB", "LARS", "Lion", "NAdam",
        "Prodigy", "RAdam", "RMSprop", "Rprop", "SGD", "SOAP",
    )  # fmt: skip
    for name in names:
        model = _mlp()
        optimizer = getattr(optim, name)(model.parameters(), lr=0.01, fused=False)
        tell(model, optimizer)
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()


def kernels(tell):
    for options in ({"momentum": 0.9}, {"momentum": 0.9, "average": "mean"}):
        model = _mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.01, fused=True, **options)
        tell(model, optimizer)
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()


def schedule_free(tell):
    for kind in (optim.ScheduleFreeSGD, optim.ScheduleFreeAdamW):
        model = _mlp()
        optimizer = kind(model.parameters(), lr=0.01, fused=False)
        tell(model, optimizer)
        for _ in range(2):
            optimizer.train()
            for x, y in zip(X.split(8), Y.split(8), strict=True):
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
            optimizer.eval()
            with torch.no_grad():
                F.mse_loss(model(X), Y)


def lbfgs_of_ours(tell):
    model = _mlp()
    optimizer = optim.LBFGS(model.parameters(), max_iter=4)
    tell(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)


def options_in_the_step(tell):
    """The step itself clips, averages and clears the gradients."""
    model = _mlp()
    optimizer = optim.AdamW(
        model.parameters(), lr=0.01, clip_norm=0.5, average="ema", zero_grad=True
    )
    tell(model, optimizer)
    for x, y in zip(X.split(4) * 2, Y.split(4) * 2, strict=True):
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def own_clip(tell):
    model = _mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tell(model, optimizer)
    for x, y in zip(X.split(4), Y.split(4), strict=True):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

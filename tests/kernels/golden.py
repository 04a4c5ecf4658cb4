"""The golden kernels: generated source kept as text, so that a change of it is read in a diff.

Regenerate after a wanted change, and read the diff:  python tests/kernels/golden.py
"""

from pathlib import Path

import torch

import steepest
from steepest import optim
from steepest.formula import plan
from steepest.kernels import cpu

FOLDER = Path(__file__).parent / "golden"
KERNELS = {
    "adam": ("Adam", {}),
    "adam_amsgrad_weight_decay": ("Adam", {"amsgrad": True, "weight_decay": 0.01}),
    "sgd_nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "rmsprop_centered_momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "adagrad": ("Adagrad", {}),
}


def source(name: str) -> str:
    """Return the float32 kernel of a later step, its states all there."""
    optimizer, options = KERNELS[name]
    formula = getattr(optim, optimizer).formula
    chosen = plan(formula, {**formula.hyperparameters, **options}, 2, frozenset())
    return cpu.source(chosen, torch.float32).replace(steepest.__version__, "VERSION")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in KERNELS:
        (FOLDER / f"{name}.txt").write_text(source(name))
        print(f"wrote {FOLDER / name}.txt")

"""Keras 3 at its defaults, in a process of its own: its backend is chosen once.

    KERAS_BACKEND=jax python bench/train_keras.py

Each line of stdin names an .npz file: the rows, the first weights, and what to train. The answer is
a line of JSON: microseconds per training batch, and the loss over the training rows. Compiling is
left out: each model is trained for an epoch before, and then set back.
"""

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # JAX counts cores before it takes threads

import keras  # noqa: E402
import numpy as np  # noqa: E402


class Clock(keras.callbacks.Callback):
    """Notes when the first epoch began and the last one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = self.end = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begin = self.begin or perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.end = perf_counter()


def build(weights: list[np.ndarray], optimizer: str, lr: float) -> keras.Model:
    """Return a model of dense layers with these weights, ready to fit."""
    model = keras.Sequential([keras.Input((len(weights[0]),))])
    for kernel in weights[:-2:2]:
        model.add(keras.layers.Dense(kernel.shape[1], activation="relu"))
    model.add(keras.layers.Dense(weights[-2].shape[1]))
    model.compile(getattr(keras.optimizers, optimizer)(lr), loss="mse")
    model.set_weights(weights)
    return model


def train(given: dict[str, Any]) -> dict[str, float]:
    """Train as told; return the time per batch and the loss."""
    weights = [given[f"weight {k}"] for k in range(int(given["weights"]))]
    model = build(weights, str(given["optimizer"]), float(given["lr"]))
    model.optimizer.build(model.trainable_variables)
    before = [(variable, np.array(variable)) for variable in model.optimizer.variables]
    options: dict[str, Any] = {
        "x": given["x"], "y": given["y"],
        "batch_size": int(given["batch_size"]), "validation_data": (given["vx"], given["vy"]),
    }  # fmt: skip
    model.fit(**options)
    model.set_weights(weights)
    for variable, value in before:
        variable.assign(value)
    clock = Clock()
    model.fit(**options, epochs=int(given["epochs"]), callbacks=[clock])
    prediction = model.predict(given["x"], batch_size=10_000)
    return {
        "microseconds": (clock.end - clock.begin) / int(given["steps"]) * 1e6,
        "loss": float(((prediction - given["y"]) ** 2).mean()),
    }


def main() -> None:
    """Answer until stdin ends."""
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers = sys.stdout
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        for line in sys.stdin:
            given = dict(np.load(line.strip()))
            print(json.dumps(train(given)), file=answers, flush=True)


if __name__ == "__main__":
    main()

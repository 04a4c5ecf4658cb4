"""Run folders as a training leaves them, written without one."""

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Row = dict[str, Any]

OPTIONS = {
    "data": "examples/houses.csv",
    "target": "price",
    "hidden": [64, 64],
    "optimizer": "AdamW",
    "lr": 0.001,
    "weight_decay": 0.01,
    "epochs": 40,
    "batch_size": 32,
    "clip_norm": None,
    "seed": 0,
    "device": None,
}
MLP = {
    "0.weight": (64, 13),
    "0.bias": (64,),
    "2.weight": (64, 64),
    "2.bias": (64,),
    "4.weight": (1, 64),
    "4.bias": (1,),
}
DEEP = (
    {f"blocks.{k // 4}.{part}": (128, 128) for k in range(100) for part in [PART[k % 4]]}
    if (PART := ("attention.weight", "attention.bias", "feed.weight", "feed.bias"))
    else {}
)


def write_run(
    folder: Path,
    *,
    options: Mapping[str, Any] = OPTIONS,
    run: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...]] = MLP,
    rows: list[Row] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Path:
    """Write a finished run of a regression, but for what is given; return its folder."""
    folder.mkdir(parents=True)
    kept = {"recipe": "table", "arguments": arguments(options), "options": dict(options)}
    kept |= {"steepest": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"}
    (folder / "options.json").write_text(json.dumps(kept))
    rows = list(metrics(shapes)) if rows is None else rows
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = facts(options, shapes, rows) | dict(run or {})
    (folder / "run.json").write_text(json.dumps(told))
    (folder / "evaluation.json").write_text(json.dumps(evaluation or regression()))
    if weights is not None:
        save_file(
            {name: np.array(value, np.float32) for name, value in weights.items()},
            folder / "best.safetensors",
        )
    return folder


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return the words that give these options."""
    words = []
    for name in ("data", "target", "lr", "epochs"):
        if name in options:
            words += [f"--{name}", str(options[name])]
    return words


def facts(
    options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rows: list[Row]
) -> Row:
    """Return run.json of a run that ended with these rows."""
    epochs = [row for row in rows if row["kind"] == "epoch"]
    measured = [row for row in epochs if row.get("validation_loss") is not None]
    best = min(measured, key=lambda row: row["validation_loss"], default=None)
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    layers = dict.fromkeys(name.rpartition(".")[0] for name in shapes)
    return {
        "name": "table",
        "status": "finished",
        "started": "2026-03-14T09:26:53+01:00",
        "seconds": rows[-1].get("seconds") if rows else 0.0,
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "data": {"rows": 16512, "batches": 516, "batch_size": 32, "validation_rows": 4128},
        "model": [
            {
                "name": layer,
                "type": "Linear",
                "shape": f"weight {shapes.get(f'{layer}.weight', (1,))}",
                "parameters": sum(
                    n for name, n in counts.items() if name.rpartition(".")[0] == layer
                ),
            }
            for layer in layers
        ],
        "parameters": sum(counts.values()),
        "optimizer": {
            "name": "AdamW",
            "groups": [
                {
                    "tensors": len(shapes),
                    "parameters": sum(counts.values()),
                    "options": {
                        "lr": options.get("lr"),
                        "betas": [0.9, 0.999],
                        "eps": 1e-8,
                        "weight_decay": options.get("weight_decay"),
                    },
                }
            ],
        },
        "schedule": "cosine(total=20640, warmup=500)",
        "monitor": {"name": "validation_loss", "mode": "min"},
        "best": best
        and {"epoch": best["epoch"], "step": best["step"], "value": best["validation_loss"]},
        "final": epochs[-1] if epochs else None,
    }


def metrics(
    shapes: Mapping[str, tuple[int, ...]] = MLP,
    *,
    epochs: int = 40,
    batches: int = 516,
    log_steps: int = 50,
    lr: float = 1e-3,
    floor: float = 0.18,
    speed: float = 1.0,
    seed: int = 0,
    named: tuple[str, ...] = ("mae", "r2"),
) -> Iterator[Row]:
    """Yield the rows of a run that learns, overfits a little, and slows down by a cosine."""
    chance, total, step = random.Random(seed), epochs * batches, 0
    for epoch in range(1, epochs + 1):
        losses = []
        for _ in range(batches):
            step += 1
            done = step / total
            loss = (
                floor * (1 - 0.25 * done)
                + 1.1 * math.exp(-14 * speed * done)
                + 3 * math.exp(-300 * done)
            )
            losses.append(loss)
            if step % log_steps:
                continue
            now = lr * min(1, step / 500) * (1 + math.cos(math.pi * done)) / 2
            row = place("step", epoch, step)
            row |= {"loss": loss * math.exp(chance.gauss(0, 0.09)), "lr": now}
            row["gradient_norm"] = (0.3 + 6 * math.exp(-12 * done)) * math.exp(
                chance.gauss(0, 0.25)
            )
            row["ratios"] = {
                name: now / lr * 10 ** (-3.6 + 1.2 * k / len(shapes) + chance.gauss(0, 0.06))
                for k, name in enumerate(shapes)
            }
            yield row
        yield place("epoch", epoch, step) | measured(
            losses, floor, step / total, speed, lr, chance, named
        )


def measured(losses, floor, done, speed, lr, chance, named) -> Row:
    """Return what an epoch and its validation measured."""
    validation = floor * 1.12 + 1.1 * math.exp(-13 * speed * done) + 0.05 * max(0, done - 0.55)
    validation *= math.exp(chance.gauss(0, 0.012))
    row = {"loss": sum(losses) / len(losses), "lr": lr * (1 + math.cos(math.pi * done)) / 2}
    row["validation_loss"] = validation
    values = {"mae": 0.74 * math.sqrt(validation), "r2": 1 - validation / 1.33}
    values |= {"accuracy": 1 - validation / 2.6, "f1": 0.99 - validation / 2.5}
    return row | {f"validation_{name}": values[name] for name in named}


def place(kind: str, epoch: int, step: int) -> Row:
    """Return where a row was measured."""
    return {
        "kind": kind,
        "epoch": epoch,
        "step": step,
        "samples": 32 * step,
        "seconds": step * 1.4e-4,
    }


def regression(rows: int = 2000, error: float = 0.35, seed: int = 0) -> Row:
    """Return the evaluation of house prices in 100,000 dollars, cut off at five."""
    chance = random.Random(seed)
    target = [min(5.0, math.exp(chance.gauss(0.55, 0.55))) for _ in range(rows)]
    prediction = [t * 0.93 + 0.15 + chance.gauss(0, error * (0.4 + 0.35 * t)) for t in target]
    return {"task": "regression", "target": target, "prediction": prediction}


def classification(classes: int = 10, seed: int = 0) -> Row:
    """Return the confusion of digits."""
    chance = random.Random(seed)
    confusion = [
        [int(chance.random() < 0.12) * chance.randint(1, 4) for _ in range(classes)]
        for _ in range(classes)
    ]
    for k in range(classes):
        confusion[k][k] = chance.randint(30, 40)
    return {
        "task": "classification",
        "classes": [str(k) for k in range(classes)],
        "confusion": confusion,
    }

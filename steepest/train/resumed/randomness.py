"""All random numbers that a run may draw: seeded, read and set back together."""

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from steepest.errors import RecipeError


def seed_all(seed: int) -> None:
    """Seed the random numbers of torch (on every device), numpy and Python.

    Raises:
        RecipeError: torch takes no such seed.
    """
    check_seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def check_seed(seed: int) -> None:
    """Refuse a seed that torch does not take.

    Raises:
        RecipeError: it is.
    """
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not -(2**63) <= seed < 2**64:
        raise RecipeError(f"seed is a whole number from -2**63 to 2**64 - 1: got {seed!r}")


CPU = torch.device("cpu")


def random_state(device: torch.device = CPU, batches: object = None) -> dict[str, Any]:
    """Return the state of all random numbers that a run may draw.

    They are torch's, on the CPU and on the run's device, numpy's, Python's, and those of a
    `DataLoader` that has a generator of its own.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
        "loader": [generator.get_state() for generator in generators(batches)],
        "device": None if device.type == "cpu" else _random_of(device).get_rng_state(),
    }


def set_random_state(
    state: Mapping[str, Any], device: torch.device = CPU, batches: object = None
) -> None:
    """Set all random numbers back to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(tuple(state["numpy"]))
    random.setstate(state["python"])
    for generator, loader_state in zip(generators(batches), state["loader"], strict=True):
        generator.set_state(loader_state)
    if device.type != "cpu" and state["device"] is not None:
        _random_of(device).set_rng_state(state["device"])


def _random_of(device: torch.device) -> Any:
    return torch.get_device_module(device)


def generators(batches: object) -> Iterator[torch.Generator]:
    """Yield the generators that a `DataLoader` and its samplers have of their own, each once."""
    if not isinstance(batches, DataLoader):
        return
    inner = getattr(batches.batch_sampler, "sampler", None)
    owners: Iterable[object] = (batches, batches.sampler, batches.batch_sampler, inner)
    found = {id(g): g for owner in owners if (g := getattr(owner, "generator", None)) is not None}
    yield from found.values()

"""Random numbers that belong to a seed and a purpose."""

import hashlib
from numbers import Integral

import numpy as np
import torch

from steepest.errors import DataError


def generator(purpose: str, seed: int, n: int = 0) -> torch.Generator:
    """Return a CPU generator fixed by purpose, seed and number.

    torch's CPU generator takes 32 bits of its seed, so a sum of `seed` and `n` would give seed 0,
    epoch 1 the order of seed 1, epoch 0, and seeds that differ in high bits only the same numbers.

    Raises:
        DataError: `seed` is no whole number.
    """
    check_whole("seed", seed)
    digest = hashlib.blake2b(f"{purpose} {seed} {n}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))


def drawn(purpose: str, seed: int, first: int, rows: int) -> np.ndarray:
    """Return a random uint64 for each row `(rows,)`, fixed by purpose, seed and the row's number.

    The rows are numbered from `first`. SplitMix64: Steele, Lea & Flood 2014, "Fast splittable
    pseudorandom number generators", figure 16.
    """
    key = hashlib.blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest()
    x = np.arange(first + 1, first + rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(int.from_bytes(key))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def check_whole(name: str, value: int, at_least: int | None = None) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        DataError: it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DataError(f"{name} is a whole number: got {value!r}")
    if at_least is not None and value < at_least:
        raise DataError(f"{name} is at least {at_least}: got {value}")

"""Random numbers that belong to a seed and a purpose."""

import hashlib
from numbers import Integral

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


def check_whole(name: str, value: int, at_least: int | None = None) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        DataError: it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DataError(f"{name} is a whole number: got {value!r}")
    if at_least is not None and value < at_least:
        raise DataError(f"{name} is at least {at_least}: got {value}")

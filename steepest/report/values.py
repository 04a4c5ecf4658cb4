"""What was read from a file -> values of a known kind.

A run folder may come from a stranger, so nothing in it is taken for what it ought to be.
"""

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

JSON_BYTES = 32 * 2**20  # a confusion matrix of 1,000 classes has 7 MB
TEXT = 300  # characters of a name or an option that are shown


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it holds no JSON object, or is larger than 32 MB.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep its reader waiting
        raise ValueError("is not a plain file")
    with path.open("rb") as file:
        text = file.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise ValueError("is larger than 32 MB")
    found = parsed(text)
    if not isinstance(found, dict):
        raise ValueError("holds no JSON object")
    return found


def parsed(text: bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise ValueError("holds no JSON") from None


def number(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    """Return a whole number from 0; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found >= 0 else None


def text(value: object) -> str:
    """Return a value's text in one line, cut where it is long, without control characters."""
    said = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    cut = said if len(said) <= TEXT else said[: TEXT - 1] + "…"
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in cut
    )


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []

"""The learned numbers of a small model, from its weights."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from steepest.errors import DataError
from steepest.report.values import text

WEIGHTS = ("best.safetensors", "model.safetensors")
TRANSFORM = "transform.json"
MOST = 50  # numbers that are shown
FILE_BYTES = 2**18  # of so few numbers and their names


def read_learned(folder: Path, faults: list[str]) -> dict[str, float]:
    """Return the numbers of a small model by name; none of a larger one."""
    weights = _read(folder, faults)
    matrices = any(tensor.ndim == 2 for tensor in weights.values())
    features = _features(folder, faults) if matrices else ()
    return {
        text(name) + place: float(tensor[at])
        for name, tensor in weights.items()
        for at, place in _places(tensor.shape, features)
    }


def _read(folder: Path, faults: list[str]) -> Mapping[str, Any]:
    """Return the best weights, or else the last ones, if they are few."""
    for path in (folder / name for name in WEIGHTS):
        if not path.is_file():
            continue
        try:
            return _small(path)
        except Exception as error:  # whatever safetensors' reader stumbles over, from its Rust
            reason = text(str(error).partition("\n")[0])
            faults.append(f"{path.name} cannot be read ({reason}); its numbers are left out.")
    return {}


def _small(path: Path) -> Mapping[str, Any]:
    from safetensors import safe_open

    if path.stat().st_size > FILE_BYTES:
        return {}
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        if sum(prod(file.get_slice(name).get_shape()) for name in names) > MOST:
            return {}
        return {name: file.get_tensor(name) for name in names}


def _places(shape: Sequence[int], features: Sequence[str]) -> list[tuple[tuple[int, ...], str]]:
    """Return each element's place, as an index and as text; a single element's text is empty.

    A matrix with a column for each feature is the first of its model: its columns have names.
    """
    indices = list(product(*map(range, shape)))
    if len(indices) == 1:
        return [(indices[0], "")]
    if len(shape) == 2 and shape[1] == len(features):
        rows = [f"[{row}]" if shape[0] > 1 else "" for row in range(shape[0])]
        return [(at, f"{rows[at[0]]} {text(features[at[1]])}") for at in indices]
    return [(at, f"[{', '.join(map(str, at))}]") for at in indices]


def _features(folder: Path, faults: list[str]) -> Sequence[str]:
    """Return the names of the features of a table; none where no transform was kept."""
    if not (folder / TRANSFORM).is_file():
        return ()
    from steepest.data.transform import Transform  # polars takes its time

    try:
        return Transform.load(folder / TRANSFORM).features
    except DataError as error:
        faults.append(f"{error}.")
        return ()

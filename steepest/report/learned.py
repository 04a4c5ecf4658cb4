"""The learned numbers of a small model, from its weights."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from steepest.report.values import text

WEIGHTS = ("best.safetensors", "model.safetensors")
MOST = 50  # numbers that are shown
FILE_BYTES = 2**18  # of so few numbers and their names


@dataclass(frozen=True)
class Learned:
    """The numbers by name, and the file that they are from; no numbers where they are too many."""

    file: str
    numbers: dict[str, float]


def read_learned(folder: Path, faults: list[str]) -> Learned | None:
    """Return a small model's parameters; None where there is none, or too many."""
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            numbers = _numbers(path)
        except Exception as error:  # whatever safetensors' reader stumbles over, from its Rust
            reason = str(error).partition("\n")[0]
            faults.append(f"{name} cannot be read ({text(reason)}); its numbers are left out.")
            continue
        return Learned(name, numbers) if numbers else None
    return None


def _numbers(path: Path) -> dict[str, float]:
    from safetensors import safe_open

    if path.stat().st_size > FILE_BYTES:
        return {}
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names}
        if sum(map(_count, shapes.values())) > MOST:
            return {}
        return {
            text(name) + place: value
            for name in names
            for place, value in _elements(file.get_tensor(name))
        }


def _elements(tensor: Any) -> list[tuple[str, float]]:
    """Return each element with its place, such as [0, 3]; a single one has none."""
    if tensor.size == 1:
        return [("", float(tensor.reshape(())))]
    places = product(*map(range, tensor.shape))
    return [(f"[{', '.join(map(str, place))}]", float(tensor[place])) for place in places]


def _count(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count

"""A transform as JSON text, and back; whoever wrote the text is not trusted."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import polars as pl

from steepest.data.columns import Column, Role, Unit
from steepest.data.target import Target, Task
from steepest.data.transform import Transform
from steepest.errors import DataError

FORMAT = 1
LARGEST_FILE = 64 * 2**20
MOST_FEATURES = 2**24
LARGEST_WHOLE = 2**63


def to_json(transform: Transform) -> str:
    """Return the transform as JSON text; what has its default is left out."""
    from steepest import __version__

    written = {
        "format": FORMAT,
        "steepest": __version__,
        "polars": pl.__version__,
        "rows": transform.rows,
        "target": _told(transform.target),
        "columns": [_told(column) for column in transform.columns],
    }
    return json.dumps(written, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def load(path: Path) -> Transform:
    """Read a transform from its file.

    Raises:
        DataError: it cannot be read, is larger than 64 MiB, or is no transform.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"the transform {path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise DataError(f"the transform {path} is larger than {LARGEST_FILE // 2**20} MiB")
    try:
        return from_json(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"the transform {path} is damaged: it is not UTF-8 text") from None
    except DataError as error:
        raise DataError(f"the transform {path} is damaged: {error}") from None


def from_json(text: str) -> Transform:
    """Return the transform that a text holds.

    Raises:
        DataError: the text is no JSON, of another format, or a value is not of its type.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no JSON: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        given = raw.get("format") if isinstance(raw, dict) else raw
        raise DataError(f"its format is {str(given)[:40]!r}, and this version reads {FORMAT}")
    columns = raw.get("columns")
    if not isinstance(columns, list):
        _refuse("columns", columns)
    transform = Transform(
        columns=tuple(_made(Column, column) for column in columns),
        target=_made(Target, raw.get("target")),
        rows=_checked("rows", raw.get("rows"), _whole),
    )
    _check_whole(transform)
    return transform


def _told(part: Column | Target) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(part)}
    return {name: value for name, value in asdict(part).items() if value != defaults[name]}


def _made(kind: type, raw: Any) -> Any:
    if not isinstance(raw, dict):
        _refuse(kind.__name__.lower(), raw)
    known = {field.name for field in fields(kind)}
    for name, value in raw.items():
        if name not in known:
            raise DataError(f"a {kind.__name__.lower()} has no {str(name)[:40]!r}")
        _checked(name, value, CHECKS[name])
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
    try:
        return kind(**given)
    except TypeError:
        raise DataError(f"a {kind.__name__.lower()} lacks a part: got {sorted(raw)}") from None


def _check_whole(transform: Transform) -> None:
    """Refuse parts that do not belong together."""
    names = [transform.target.name, *(column.name for column in transform.columns)]
    if len(set(names)) < len(names):
        raise DataError("two of its columns have one name")
    if not 0 < sum(len(column.features) for column in transform.columns) <= MOST_FEATURES:
        raise DataError(f"its columns become no number, or more than {MOST_FEATURES:,}")
    for column in transform.columns:
        if not column.left_out and column.role is None:
            raise DataError(f"its column {column.name!r} has no role")
        if (column.role == "date") != (column.unit is not None) and not column.left_out:
            raise DataError(f"its column {column.name!r} is a date without a unit, or none with it")
        if (column.role == "category") != bool(column.categories) and not column.left_out:
            raise DataError(f"its column {column.name!r} is a category without any, or none with")
    classes = transform.target.classes
    if len({type(label) for label in classes}) > 1 or len(set(classes)) < len(classes):
        raise DataError("its classes are of several types, or one comes twice")
    if (len(classes) >= 2) != (transform.target.task == "classification"):
        raise DataError(f"its task is {transform.target.task} with {len(classes)} classes")


def _checked(name: str, value: Any, check: Callable[[Any], bool]) -> Any:
    return value if check(value) else _refuse(name, value)


def _refuse(name: str, value: Any) -> NoReturn:
    raise DataError(f"its {name} may not be {str(value)[:40]!r}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, and numbers are finite")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_WHOLE


def _number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < LARGEST_WHOLE
    return isinstance(value, float) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _label(value: Any) -> bool:
    return isinstance(value, str | bool) or (isinstance(value, int) and _number(value))


CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _text,
    "kind": _text,
    "role": lambda value: value is None or value in get_args(Role),
    "task": lambda value: value in get_args(Task),
    "unit": lambda value: value is None or value in get_args(Unit),
    "missing": _whole,
    "fill": _number,
    "mean": _number,
    "std": lambda value: _number(value) and value > 0,
    "categories": _texts,
    "classes": lambda value: isinstance(value, list) and all(map(_label, value)),
    "grouped": lambda value: isinstance(value, bool),
    "left_out": _text,
}

"""What is printed at the start of a run: its data, model, optimizer, schedule and device."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from steepest.figures import counted
from steepest.optim import Mixed
from steepest.train.run import Run
from steepest.train.shown.summary import readable

Told = Mapping[str, Any]
LEAST_WIDTH = 60  # characters of a terminal, below which lines are too long for it
LABEL = 11  # characters of the labels' column
MOST_MODULES = 20  # lines of the table of modules
LEAST_TYPE, LEAST_SHAPES = 10, 18  # characters that a line of it has for them at least
SHAPE = re.compile(r"\(.*?\)")
UNBROKEN = "\N{NO-BREAK SPACE}"  # where no line breaks, while lines are made


@runtime_checkable
class Described(Protocol):
    """A transform that tells what becomes of each column, as `steepest.data.Transform`."""

    def describe(self) -> list[tuple[str, str, str, str]]: ...


def show_opening(run: Run, told: Told, notes: list[str]) -> None:
    """Print what the run is made of (its summary), and what a reader should know, to stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    room = max(console.width, LEAST_WIDTH) - LABEL
    for label, lines in _opening(run, told, room):
        for k, line in enumerate(lines):
            start = label if k == 0 else ""
            console.print(Text.assemble((start.ljust(LABEL), "bold"), line), soft_wrap=True)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _opening(run: Run, told: Told, room: int) -> Iterator[tuple[str, list[str]]]:
    """Yield labels and the lines beside them, of at most `room` characters where they can."""
    yield "data", _wrapped(_data_line(told["data"]), room)
    if isinstance(run.transform, Described):
        from steepest.data.roles import rendered  # polars, which has read the table by now

        yield "columns", rendered(run.transform.describe(), room).splitlines()
    trained = sum(group["parameters"] for group in told["optimizer"]["groups"])
    only = f", {trained:,} of them trained" if trained != told["parameters"] else ""
    model = f"{type(run.model).__name__}, {counted(told['parameters'], 'parameter')}{only}"
    yield "model", [model, *(_modules_table(told["model"], room) if len(told["model"]) > 1 else [])]
    yield "optimizer", list(_optimizer_lines(run.optimizer, told["optimizer"], room))
    yield "schedule", _wrapped(told["schedule"].split(", "), room)
    parts = [told["device"], _threads(told, run), told["precision"]]
    yield "device", _wrapped(parts, room)


def _wrapped(parts: Iterable[str], room: int, start: str = "") -> list[str]:
    """Return the parts in lines that break between two of them."""
    text = ", ".join(part.replace(" ", UNBROKEN) for part in parts)
    lines = textwrap.wrap(
        start + text, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(UNBROKEN, " ") for line in lines]


def _data_line(data: Told) -> list[str]:
    parts = [counted(data["rows"], "row")] if data["rows"] is not None else []
    if data["batches"] is not None:
        of = f" of {data['batch_size']}" if data["batch_size"] else ""
        parts.append(counted(data["batches"], "batch", "batches") + of)
    if data["validation_rows"] is not None:
        parts.append(counted(data["validation_rows"], "validation row"))
    return parts or ["a stream"]


def _modules_table(modules: list[Told], room: int) -> list[str]:
    """Return a line for each module: name, type, its parameters' shapes and their number."""
    rows = [
        (m["name"], m["type"], " ".join(SHAPE.findall(m["shape"])), f"{m['parameters']:,}")
        for m in modules
    ]
    more = len(rows) - MOST_MODULES
    if more > 0:
        rest = sum(m["parameters"] for m in modules[MOST_MODULES:])
        rows[MOST_MODULES:] = [("...", f"{more} more", "", f"{rest:,}")]
    names, kinds, shapes, numbers = (max(map(len, column)) for column in zip(*rows, strict=True))
    names = min(names, room // 2)
    room -= names + numbers + len("  ") * 4
    kinds = min(kinds, max(LEAST_TYPE, room - min(shapes, LEAST_SHAPES)))
    shapes = min(shapes, max(LEAST_SHAPES, room - kinds))
    return [
        f"  {_cut(name[::-1], names)[::-1]:<{names}}  {_cut(kind, kinds):<{kinds}}"
        f"  {_cut(shape, shapes):<{shapes}}  {number:>{numbers}}"
        for name, kind, shape, number in rows
    ]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."


def _optimizer_lines(optimizer: torch.optim.Optimizer, told: Told, room: int) -> Iterator[str]:
    """Yield the optimizer with what differs from its defaults, and its groups if it has several."""
    around = [f"{name} {_value(v)}" for name, v in told["options"].items()]
    groups = list(zip(optimizer.param_groups, told["groups"], strict=True))
    if len(groups) > 1:
        yield from _wrapped([told["name"], *around], room)
    for group, numbers in groups:
        options = [f"{k} {_value(v)}" for k, v in _telling(optimizer, group).items()]
        tensors = counted(numbers["tensors"], "tensor")
        in_all = f"{counted(numbers['parameters'], 'parameter')} in {tensors}"
        if len(groups) == 1:
            yield from _wrapped([told["name"], *_begun(in_all, [*options, *around])], room)
        else:
            kind = [group["optimizer"]] if "optimizer" in group else []
            yield from _wrapped([*kind, *_begun(in_all, options)], room, "  ")


def _begun(what: str, options: list[str]) -> list[str]:
    """Return parts of which the first says what the others are of."""
    return [f"{what}: {options[0]}", *options[1:]] if options else [what]


def _telling(optimizer: torch.optim.Optimizer, group: Told) -> dict[str, Any]:
    """Return a group's lr, and its other options where they are not the class's defaults."""
    if isinstance(optimizer, Mixed):
        usual: Told = optimizer.rule(group).defaults
    else:
        parameters = inspect.signature(type(optimizer)).parameters
        usual = {name: parameter.default for name, parameter in parameters.items()}
    shown = {name: group[name] for name in usual if name in group and name != "params"}
    return {
        name: value
        for name, value in shown.items()
        if name == "lr" or not (value is usual[name] or readable(value) == readable(usual[name]))
    }


def _value(value: Any) -> str:
    value = readable(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _threads(told: Told, run: Run) -> str:
    said = counted(told["threads"], "thread")
    if told["threads"] == 1 and run.threads is None and torch.get_num_threads() > 1:
        return f"{said} (for so small a model more are slower)"
    return said

"""Source: a function's own text and syntax tree, and errors that point into it."""

import ast
import contextlib
import linecache
from collections.abc import Iterator
from types import FunctionType
from typing import Any, NoReturn

from steepest.errors import FormulaError


class Source:
    """The text of one function, in the file or notebook cell where it was written.

    Attributes:
        function: the function.
        node: its syntax tree.
        outside: the names that it sees besides its arguments.
    """

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.file = function.__code__.co_filename
        linecache.checkcache(self.file)
        self.lines = linecache.getlines(self.file, function.__globals__)
        self.node = self._find()
        self.outside: dict[str, Any] = {**function.__globals__, **_enclosed(function)}

    def text(self) -> str:
        """Return the function as it is written."""
        last = self.node.end_lineno or self.node.lineno
        return "".join(self.lines[self.node.lineno - 1 : last])

    def refuse(self, node: ast.AST, rule: str, instead: str) -> NoReturn:
        """Raise a FormulaError that points at a node."""
        line = getattr(node, "lineno", self.node.lineno)
        column = getattr(node, "col_offset", 0)
        text = self.lines[line - 1].rstrip("\n")
        end = getattr(node, "end_col_offset", None)
        if end is None or getattr(node, "end_lineno", line) != line:
            end = len(text.encode())
        before, under = (text.encode()[a:b].decode() for a, b in ((0, column), (column, end)))
        margin = "".join("\t" if letter == "\t" else " " for letter in before)
        raise FormulaError(
            f"{rule}; {instead}\n"
            f'  File "{self.file}", line {line}, in {self.node.name}\n'
            f"    {text}\n"
            f"    {margin}{'^' * max(1, len(under))}"
        )

    def _find(self) -> ast.FunctionDef | ast.AsyncFunctionDef:
        """Find the function's own syntax tree in its file."""
        code = self.function.__code__
        place = f"{self.function.__name__} ({self.file})"
        if not self.lines:
            raise FormulaError(
                f"the source of the formula {place} cannot be read; "
                "write it in a file or a notebook cell, not at a prompt or in exec()"
            )
        for node in _functions("".join(self.lines)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if node.name == code.co_name and first == code.co_firstlineno:
                return node
        raise FormulaError(
            f"the source of the formula {place} is not the one that was imported; "
            "restart Python when the file has changed since"
        )


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Find every function in a file; none when somebody is in the midst of changing it."""
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def _enclosed(function: FunctionType) -> dict[str, Any]:
    """Return what a function sees of the functions around it, where that is set by now."""
    values: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            values[name] = cell.cell_contents
    return values

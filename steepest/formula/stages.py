"""Stages: a straight line -> kernels with torch's words between them.

A word of a whole tensor needs every element before any is written. So each stage but the last only
reads: it sums what `norm`, `mean` and `total` need, or hands an intermediate tensor to torch, and
computes from p, g and the states whatever lines that takes. The last stage computes what it needs
once more, and writes. Nothing is stored between them but what torch is given.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING

from steepest.errors import FormulaError
from steepest.formula.extras import square, sums
from steepest.formula.shapes import COLUMN, FULL, ROW, TORCH
from steepest.formula.whole import WHOLE

if TYPE_CHECKING:
    from steepest.formula.plan import Plan

REDUCTIONS = ("norm", "mean", "total")
"""Words that a kernel sums; torch computes the others."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One kernel over the elements, and what torch computes before it.

    Attributes:
        torch: lines of torch's words, compiled; None where there are none.
        torch_source: their text.
        lines: assignments per element.
        reads: the arrays that they load: p, g, states, results of torch's words.
        wholes: the numbers of a tensor that they use, summed by an earlier stage.
        sums: what is summed over each tensor, by name.
        stores: what is written, by array.
    """

    torch: CodeType | None
    torch_source: str
    lines: tuple[tuple[str, ast.expr], ...]
    reads: tuple[str, ...]
    wholes: tuple[str, ...]
    sums: Mapping[str, ast.expr]
    stores: Mapping[str, ast.expr]

    @property
    def idle(self) -> bool:
        """Whether no kernel is needed."""
        return not self.sums and not self.stores


def names(tree: ast.AST) -> set[str]:
    """Return every name in a syntax tree."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def word_of(expr: ast.expr) -> str | None:
    """Return which word of a whole tensor an expression is a call of."""
    match expr:
        case ast.Call(func=ast.Name(id=word)) if word in WHOLE:
            return word
    return None


def staged(plan: "Plan") -> tuple[Stage, ...]:
    """Cut a plan's line into stages, each as late as what it needs is known."""
    return _Cutter(plan).stages()


class _Cutter:
    """Sorts lines by who computes them, and when."""

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        self.exprs = dict(plan.lines)
        self.summed = {n for n, e in plan.lines if self._is_sum(e)}
        self.torch = {
            n
            for n, e in plan.lines
            if n not in self.summed and (plan.shapes[n] in TORCH or word_of(e) is not None)
        }
        self.level: dict[str, int] = {}
        for name, expr in plan.lines:
            self.level[name] = self._level(name, expr)
        self.needed = self._slice(plan.outputs.values(), everything=True)
        for total in plan.totals:
            self.needed |= {total, *self._slice([self.exprs[total]], everything=True)}
        by_torch = [ast.unparse(self.exprs[n]) for n in self.needed & self.torch]
        if plan.totals and by_torch:
            raise FormulaError(
                f"{plan.formula.name}: a `total` sums over all parameters at once, what torch "
                f"computes (`{min(by_torch)}`) goes tensor by tensor; a formula has one or the "
                "other"
            )
        self.given = {
            x for n in self.needed & self.torch for x in names(self.exprs[n])
            if plan.shapes.get(x) == FULL and x in self.exprs and x not in self.torch
        }  # fmt: skip

    def _is_sum(self, expr: ast.expr) -> bool:
        if word_of(expr) not in REDUCTIONS:
            return False
        assert isinstance(expr, ast.Call)
        assert isinstance(expr.args[0], ast.Name)
        return self.plan.shapes[expr.args[0].id] == FULL

    def _level(self, name: str, expr: ast.expr) -> int:
        """Return the first stage at whose kernel a line can be computed."""
        found = 0
        for x in names(expr):
            level = max((self.level[t] for t in self.plan.after.get(x, ())), default=0)
            level = max(level, self.level.get(x, 0))
            handed = name in self.torch and x in self.exprs and self.plan.shapes.get(x) == FULL
            later = name in self.summed or (handed and x not in self.torch)
            found = max(found, level + later)
        return found

    def stages(self) -> tuple[Stage, ...]:
        ends = [self._level("", expr) for expr in self.plan.outputs.values()]
        ends += [self.level[name] for name in self.needed]
        end = max(ends, default=0)  # a plan may change nothing but the count of updates
        return tuple(self._stage(k, last=k == end) for k in range(end + 1))

    def _stage(self, k: int, last: bool) -> Stage:
        torch_lines = [
            n for n in self.exprs if n in self.needed & self.torch and self.level[n] == k
        ]
        stores = {n: ast.Name(n) for n in self.exprs if n in self.given and self.level[n] == k}
        summed = {
            n: _summand(e) for n, e in self.plan.lines
            if n in self.needed & self.summed and self.level[n] == k + 1
        }  # fmt: skip
        if last:
            full = {n: e for n, e in self.plan.outputs.items() if not self._by_torch(n)}
            stores |= full
            if self.plan.extras.norms:
                summed |= sums(full.get("p", ast.Name("p")))
        exprs = [*stores.values(), *summed.values()]
        used = self._slice(exprs)
        leaves = set().union(*map(names, (*(self.exprs[n] for n in used), *exprs))) - used
        source = self._torch_source(torch_lines)
        return Stage(
            torch=compile(source, "<torch's words>", "exec") if torch_lines else None,
            torch_source=source,
            lines=tuple((n, e) for n, e in self.plan.lines if n in used),
            reads=tuple(n for n in self.plan.shapes if n in leaves and self._is_array(n)),
            wholes=tuple(n for n in self.exprs if n in leaves & self.summed),
            sums=MappingProxyType(summed),
            stores=MappingProxyType(stores),
        )

    def _by_torch(self, output: str) -> bool:
        return output in self.plan.formula.states and self.plan.formula.shapes[output] in TORCH

    def _is_array(self, name: str) -> bool:
        """Tell whether a leaf is an array; refuse one that has no place for an element."""
        if name in self.summed:
            return False
        shape = self.plan.shapes[name]
        if shape not in (FULL, ROW, COLUMN):
            raise FormulaError(
                f"{self.plan.formula.name}: `{name}` has one value for each {shape}, which an "
                "element does not have; compute with it beside rows or columns first"
            )
        return True

    def _slice(
        self,
        exprs: Iterable[ast.expr],
        everything: bool = False,
        given: Iterable[str] = (),
    ) -> set[str]:
        """Return the lines that expressions need: those of kernels, or all; none that is given."""
        wanted = set().union(*map(names, exprs))
        found: set[str] = set()
        known = {*given} if everything else {*given} | self.summed | self.torch
        for name, expr in reversed(self.plan.lines):
            if name in wanted and name not in known:
                found.add(name)
                wanted |= names(expr)
        return found

    def _torch_source(self, lines: list[str]) -> str:
        """Write torch's lines, with the numbers of a tensor that they compute with."""
        numbers = self._slice([self.exprs[n] for n in lines], given=self.given)
        text = [
            f"{n} = {ast.unparse(self.exprs[n])}" for n in self.exprs if n in {*numbers, *lines}
        ]
        return "".join(f"{line}\n" for line in text)


def _summand(expr: ast.expr) -> ast.expr:
    """Return what is summed over the elements for a word: squares for a norm."""
    assert isinstance(expr, ast.Call)
    (x,) = expr.args
    return square(x) if word_of(expr) == "norm" else x

"""Plan: a formula with its host decisions made -> one straight line per element.

What depends on hyperparameters alone is lifted out of the line into scalars, which one compiled
host function computes in float64 once per step. The same function checks that every decision
still holds, so that a plan is never run on hyperparameters it was not made for.
"""

import ast
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from steepest.errors import HyperparameterError
from steepest.formula.kinds import none_test
from steepest.formula.parse import Formula
from steepest.formula.words import WORDS, inverse

HOST_WORDS: dict[str, Any] = {**WORDS, "_inverse": inverse, "__builtins__": {}}


@dataclass(frozen=True, eq=False)
class Plan:
    """One straight line of a formula.

    Attributes:
        decisions: the host `if`s that were met, as text, with their answers.
        absent: states that do not exist before this update.
        reads, writes: the states that the line loads and stores, in the formula's order.
        lines: assignments per element, `name = expression` over p, g, states and scalars.
        outputs: for `p` and every written state, the expression to store.
        scalars: names of the hoisted scalars, in the order in which `host` returns them.
        host: `host(group, step) -> scalars`, or None when a decision no longer holds.
        host_source: the source of `host`.
    """

    formula: Formula
    decisions: tuple[tuple[str, bool], ...]
    absent: frozenset[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    lines: tuple[tuple[str, ast.expr], ...]
    outputs: Mapping[str, ast.expr]
    scalars: tuple[str, ...]
    host: Callable[[Mapping[str, Any], int], tuple[float, ...] | None]
    host_source: str
    kernels: dict[Any, Any] = field(default_factory=dict)

    @property
    def states(self) -> tuple[str, ...]:
        """The states that this plan touches, in the formula's order; the others do not exist."""
        touched = {*self.reads, *self.writes}
        return tuple(state for state in self.formula.states if state in touched)


def plan(formula: Formula, group: Mapping[str, Any], step: int, absent: frozenset[str]) -> Plan:
    """Return the plan that serves a group's hyperparameters at a step.

    Args:
        group: the hyperparameters by name (a param group).
        step: the update about to be made, 1 for the first.
        absent: the tested states (`formula.tested`) that are None before this update.

    >>> from steepest.optim import SGD
    >>> made = plan(SGD.formula, SGD.formula.hyperparameters, step=1, absent=frozenset())
    >>> [(name, ast.unparse(expr)) for name, expr in made.lines]
    [('p_1', 'p - s_1 * g')]
    >>> made.host({**SGD.formula.hyperparameters, "lr": 0.5}, 1)
    (0.5,)
    """
    for known in formula.plans:
        if known.absent == absent and known.host(group, step) is not None:
            return known
    made = _Planner(formula, group, step, absent).plan()
    formula.plans.append(made)
    return made


@dataclass(frozen=True)
class _Value:
    """What a name holds while planning: an expression, per element or of the host alone."""

    expr: ast.expr
    element: bool


class _Planner:
    """Walks one path through a formula, the one that the given hyperparameters take."""

    def __init__(
        self, formula: Formula, group: Mapping[str, Any], step: int, absent: frozenset[str]
    ) -> None:
        self.formula = formula
        self.absent = absent
        self.decisions: list[tuple[str, bool]] = []
        self.lines: list[tuple[str, ast.expr]] = []
        self.host: list[str] = []
        self.slots: dict[str, str] = {}
        self.taken = {"p", "g", "step", *formula.states, *formula.hyperparameters}
        self.taken |= {n for statement in formula.body for n in _names(statement)}
        self.now: dict[str, Any] = {"step": step}
        self.env: dict[str, _Value | None] = {
            name: _Value(ast.Name(name), True) for name in ("p", "g", *formula.states)
        }
        self.env |= dict.fromkeys(absent)
        for name in formula.hyperparameters:
            self.host.append(f"{name} = _group[{name!r}]")
            self.now[name] = group[name]
            self.env[name] = _Value(ast.Name(name), False)
        self.env["step"] = _Value(ast.Name("step"), False)

    def plan(self) -> Plan:
        *body, returned = self.formula.body
        self._block(body)
        outputs = self._outputs(returned)
        lines = [expr for _, expr in self.lines]
        used = set().union(*map(_names, (*lines, *outputs.values())))
        source = self._host_source()
        scope = dict(HOST_WORDS)
        exec(compile(source, f"<host of {self.formula.name}>", "exec"), scope)
        return Plan(
            formula=self.formula,
            decisions=tuple(self.decisions),
            absent=self.absent,
            reads=tuple(s for s in self.formula.states if s in used and s not in self.absent),
            writes=tuple(s for s in self.formula.states if s in outputs),
            lines=tuple(self.lines),
            outputs=MappingProxyType(outputs),
            scalars=tuple(self.slots.values()),
            host=scope["host"],
            host_source=source,
        )

    def _outputs(self, returned: ast.stmt) -> dict[str, ast.expr]:
        """Return what to store where; what is returned as it came is not stored."""
        assert isinstance(returned, ast.Return)
        assert returned.value is not None
        items = returned.value.elts if isinstance(returned.value, ast.Tuple) else [returned.value]
        outputs = {}
        for name, item in zip(("p", *self.formula.states), items, strict=True):
            if isinstance(item, ast.Name) and self.env[item.id] is None:
                continue  # a state that was not there and is not made
            expr = self._element(self._lower(item))
            if not (isinstance(expr, ast.Name) and expr.id == name):
                outputs[name] = expr
        return outputs

    def _host_source(self) -> str:
        values = ", ".join(self.slots.values())
        body = [*self.host, f"return ({values}{',' * (len(self.slots) == 1)})"]
        return "def host(_group, step):\n" + "".join(f"    {line}\n" for line in body)

    # ---- statements ---------------------------------------------------------------------------

    def _block(self, statements: tuple[ast.stmt, ...] | list[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._assign(name, self._lower(value))
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                    self._unpack([t.id for t in targets if isinstance(t, ast.Name)], value)
                case ast.If(test=test, body=body, orelse=orelse):
                    self._block(body if self._decide(test) else orelse)

    def _assign(self, name: str, value: _Value) -> None:
        if isinstance(value.expr, ast.Name):
            self.env[name] = value  # another name for the same thing
        elif value.element:
            fresh = self._fresh(name)
            self.lines.append((fresh, value.expr))
            self.env[name] = _Value(ast.Name(fresh), True)
        else:
            fresh = self._fresh(name)
            self._host_line(fresh, ast.unparse(value.expr))
            self.env[name] = _Value(ast.Name(fresh), False)

    def _unpack(self, names: list[str], value: ast.expr) -> None:
        fresh = [self._fresh(name) for name in names]
        self._host_line(", ".join(fresh), ast.unparse(self._lower(value).expr))
        for name, new in zip(names, fresh, strict=True):
            self.env[name] = _Value(ast.Name(new), False)

    def _host_line(self, target: str, source: str) -> None:
        line = f"{target} = {source}"
        self.host.append(line)
        try:
            exec(line, HOST_WORDS, self.now)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self._not_computed(line, error) from error

    def _decide(self, test: ast.expr) -> bool:
        """Answer an `if`, and have the host function check the answer at every step."""
        lowered = self._lower(test).expr
        source = ast.unparse(lowered)
        answer = bool(self._now(source))
        self.decisions.append((ast.unparse(test), answer))
        if _names(lowered):  # else it asks of states alone, which `absent` settles
            self.host.append(f"if {f'not ({source})' if answer else source}: return None")
        return answer

    def _fresh(self, name: str) -> str:
        """Give each assignment a name of its own: `g`, then `g_1`, `g_2`, ..."""
        fresh = next(n for i in itertools.count(1) if (n := f"{name}_{i}") not in self.taken)
        self.taken.add(fresh)
        return fresh

    def _now(self, source: str) -> Any:
        """Evaluate an expression of the host with the values of this moment."""
        try:
            return eval(source, HOST_WORDS, self.now)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self._not_computed(source, error) from error

    def _not_computed(self, source: str, error: Exception) -> HyperparameterError:
        given = {name: self.now[name] for name in self.formula.hyperparameters}
        return HyperparameterError(
            f"{self.formula.name}: `{source}` cannot be computed from the hyperparameters "
            f"({', '.join(f'{name}={value!r}' for name, value in given.items())}): {error}"
        )

    def _check_number(self, source: str) -> None:
        value = self._now(source)
        try:
            math.isnan(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise HyperparameterError(
                f"{self.formula.name}: `{source}` meets an element, so it must be one real number, "
                f"not {value!r}"
            ) from None

    # ---- expressions --------------------------------------------------------------------------

    def _lower(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant():
                return _Value(node, False)
            case ast.Name(id=name):
                value = self.env[name]
                assert value is not None, name
                return value
            case ast.Subscript(value=value, slice=index):
                return _Value(ast.Subscript(self._lower(value).expr, index), False)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._lower(operand)
            case ast.UnaryOp(op=op, operand=operand):
                value = self._lower(operand)
                return _Value(ast.UnaryOp(op, value.expr), value.element)
            case ast.BinOp():
                return self._binary(node)
            case ast.BoolOp(op=op, values=values):
                return _Value(ast.BoolOp(op, [self._lower(v).expr for v in values]), False)
            case ast.Compare() if (name := none_test(node)) is not None:
                return self._none_test(node, self.env[name])
            case ast.Compare(left=left, ops=ops, comparators=[right]):
                return self._join([left, right], lambda a, b: ast.Compare(a, ops, [b]))
            case ast.Call(func=func, args=args):
                word = self.formula.words[ast.unparse(func)]
                return self._join(args, lambda *parts: ast.Call(ast.Name(word), [*parts], []))
        raise AssertionError(ast.dump(node))

    def _none_test(self, node: ast.Compare, value: _Value | None) -> _Value:
        """Answer `name is None` for a state, which the plan knows; leave the rest to the host."""
        if value is not None and not value.element:
            return _Value(ast.Compare(value.expr, node.ops, node.comparators), False)
        return _Value(ast.Constant((value is None) is isinstance(node.ops[0], ast.Is)), False)

    def _binary(self, node: ast.BinOp) -> _Value:
        left, right = self._lower(node.left), self._lower(node.right)
        if isinstance(node.op, ast.Div) and left.element and not right.element:
            # One division per step instead of one per element.
            right = _Value(ast.Call(ast.Name("_inverse"), [right.expr], []), False)
            return _Value(ast.BinOp(left.expr, ast.Mult(), self._element(right)), True)
        if isinstance(node.op, ast.Pow) and left.element and isinstance(right.expr, ast.Constant):
            return _Value(ast.BinOp(left.expr, node.op, right.expr), True)
        if left.element or right.element:
            return _Value(ast.BinOp(self._element(left), node.op, self._element(right)), True)
        return _Value(ast.BinOp(left.expr, node.op, right.expr), False)

    def _join(self, parts: list[ast.expr], make: Callable[..., ast.expr]) -> _Value:
        values = [self._lower(part) for part in parts]
        if any(value.element for value in values):
            return _Value(make(*map(self._element, values)), True)
        return _Value(make(*(value.expr for value in values)), False)

    def _element(self, value: _Value) -> ast.expr:
        """Return an expression for the line: a host value becomes a scalar, once."""
        if value.element:
            return value.expr
        source = ast.unparse(value.expr)
        if source not in self.slots:
            self._check_number(source)
            slot = self.slots[source] = self._fresh("s")
            self.host.append(f"{slot} = {source}")
        return ast.Name(self.slots[source])


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

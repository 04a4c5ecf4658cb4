import ast
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from steepest.errors import FormulaError
from steepest.formula import extras as around
from steepest.formula.extras import Extras
from steepest.formula.host import Host
from steepest.formula.kinds import none_test
from steepest.formula.parse import Formula
from steepest.formula.plan import NOWHERE, Plan
from steepest.formula.shapes import FULL, HOST, TORCH, TOTAL, broadcast
from steepest.formula.stages import REDUCTIONS, names
from steepest.formula.whole import FACTS, WHOLE


def plan(
    formula: Formula,
    group: Mapping[str, Any],
    step: int,
    absent: frozenset[str],
    own: Mapping[str, Any] = NOWHERE,
    extras: Extras = around.NOTHING,
) -> Plan:
    """Return the plan that serves a group's hyperparameters at a step.

    Args:
        group: the hyperparameters by name (a param group).
        step: the update about to be made, 1 for the first.
        absent: the tested states (`formula.tested`) that are None before this update.
        own: the states of one number by name (0 where missing), `p` where the formula asks for
            its shape, and the numbers of the extras.
        extras: what is done besides.

    >>> from steepest.optim import SGD
    >>> made = plan(SGD.formula, SGD.formula.hyperparameters, step=1, absent=frozenset())
    >>> [(name, ast.unparse(expr)) for name, expr in made.lines]
    [('p_1', 'p - s_1 * g')]
    >>> made.host({**SGD.formula.hyperparameters, "lr": 0.5}, 1)
    (0.5,)
    """
    for known in formula.plans:
        if (
            known.absent == absent
            and known.extras == extras
            and known.host(group, step, own) is not None
        ):
            return known
    made = _Planner(formula, group, step, absent, own, extras).plan()
    formula.plans.append(made)
    return made


@dataclass(frozen=True)
class _Value:
    """What a name holds while planning: an expression, and its shape beside the parameter."""

    expr: ast.expr
    shape: str = HOST

    @property
    def element(self) -> bool:
        """Whether it is a tensor's, not the host's."""
        return self.shape not in (HOST, TOTAL)


class _Planner:
    """Walks one path through a formula, the one that the given hyperparameters take."""

    def __init__(
        self,
        formula: Formula,
        group: Mapping[str, Any],
        step: int,
        absent: frozenset[str],
        own: Mapping[str, Any],
        extras: Extras,
    ) -> None:
        self.formula = formula
        self.absent = absent
        self.extras = extras
        self.decisions: list[tuple[str, bool]] = []
        self.lines: list[tuple[str, ast.expr]] = []
        self.shapes: dict[str, str] = {"p": FULL, "g": FULL, "_g": FULL}
        hyperparameters = {name: group[name] for name in formula.hyperparameters}
        self.host = Host(formula.name, hyperparameters, step, own.get("p"))
        self.wholes: dict[str, str] = {}
        self.named: dict[str, _Value] = {}
        self.totals: list[str] = []
        self.taken = {"p", "g", "step", *formula.states, *formula.hyperparameters}
        self.taken |= {n for statement in formula.body for n in names(statement)}
        self.env: dict[str, _Value | None] = {"step": _Value(ast.Name("step"))}
        for name in ("p", "g", *(s for s in formula.states if s not in formula.numbers)):
            self.shapes[name] = FULL if name in "pg" else formula.shapes[name]
            self.env[name] = _Value(ast.Name(name), self.shapes[name])
        self.env |= {name: _Value(ast.Name(name)) for name in formula.hyperparameters}
        for name in formula.states:
            if name in formula.numbers and name not in absent:
                self._given(name, own.get(name, 0.0))
        self.env |= dict.fromkeys(absent)

    def plan(self) -> Plan:
        *body, returned = self.formula.body
        if self.extras.clip_value:
            self._given("clip_value", math.inf)
            bound = ast.unparse(self._element(_Value(ast.Name("clip_value"))))
            text = f"minimum(maximum(g, -{bound}), {bound})"
            self._assign("g", _Value(around.expression(text), FULL))
        self._block(body)
        outputs, numbers = self._outputs(returned)
        if self.extras.average:
            outputs[around.AVERAGE] = self._average(outputs.get("p", ast.Name("p")))
            numbers[around.COUNT] = around.COUNT
        if self.extras.zero_grad:
            outputs["g"] = ast.Constant(0)
        used = set().union(*map(names, (*(e for _, e in self.lines), *outputs.values())))
        source = self.host.source(numbers)
        states = [s for s in (*self.formula.states, around.AVERAGE) if s not in numbers]
        return Plan(
            formula=self.formula,
            extras=self.extras,
            decisions=tuple(self.decisions),
            absent=self.absent,
            reads=tuple(s for s in states if s in used and s not in self.absent),
            writes=tuple(s for s in states if s in outputs),
            numbers=tuple(numbers),
            lines=tuple(self.lines),
            shapes=MappingProxyType(self.shapes),
            outputs=MappingProxyType(outputs),
            scalars=tuple(self.host.slots.values()),
            objects=tuple(self.host.objects.values()),
            totals=tuple(self.totals),
            after=MappingProxyType(self.host.after),
            shaped=self.host.shaped,
            host=self.host.compiled(source),
            host_source=source,
        )

    def _outputs(self, returned: ast.stmt) -> tuple[dict[str, ast.expr], dict[str, str]]:
        """Return what to store where, and the source of each state that is a number.

        What is returned as it came is not stored, unless it is a number: those are few.
        """
        assert isinstance(returned, ast.Return)
        assert returned.value is not None
        items = returned.value.elts if isinstance(returned.value, ast.Tuple) else [returned.value]
        outputs: dict[str, ast.expr] = {}
        numbers: dict[str, str] = {}
        for name, item in zip(("p", *self.formula.states), items, strict=True):
            if isinstance(item, ast.Name) and self.env[item.id] is None:
                continue  # a state that was not there and is not made
            value = self._lower(item)
            if name in self.formula.numbers:
                numbers[name] = ast.unparse(value.expr)
                self.host.check_number(numbers[name])
                continue
            expr = self._element(value)
            if not (isinstance(expr, ast.Name) and expr.id == name):
                self._check_stored(name, value)
                if value.shape in TORCH and not isinstance(expr, ast.Name):
                    expr = self._line(name, value).expr
                outputs[name] = expr
        return outputs, numbers

    def _check_stored(self, name: str, value: _Value) -> None:
        """Refuse a state of another size than the zeros that it would start from."""
        due = FULL if name == "p" else self.formula.shapes[name]
        if due in TORCH and name not in self.formula.tested:
            raise FormulaError(
                f"{self.formula.name}: the state {name!r} is no tensor of p's shape, so it cannot "
                f"start at zero; give it its first value under `if {name} is None:`"
            )
        if broadcast(value.shape, due) != due:
            raise FormulaError(
                f"{self.formula.name}: {name!r} is one value for each {due}, it cannot be computed "
                f"from one for each {value.shape}"
            )

    def _average(self, new: ast.expr) -> ast.expr:
        """Return the average of p after this update."""
        for name in (around.COUNT, "average_decay"):
            self._given(name, 0.0)
        self.host.assign(around.COUNT, f"{around.COUNT} + 1")
        weight = _Value(around.expression(around.average_weight(self.extras)))
        self.shapes[around.AVERAGE] = FULL
        scale, old = self._element(weight), ast.Name(around.AVERAGE)
        return around.expression(
            f"{old.id} + {ast.unparse(scale)} * (({ast.unparse(new)}) - {old.id})"
        )

    def _given(self, name: str, value: Any, default: str = "0.0") -> None:
        """Have the host take a number by name from what it is given besides."""
        self.host.give(name, value, default)
        self.env[name] = _Value(ast.Name(name))

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
            self.env[name] = self._line(name, value)
        else:
            fresh = self._fresh(name)
            self.host.assign(fresh, ast.unparse(value.expr))
            self.env[name] = _Value(ast.Name(fresh), value.shape)

    def _line(self, name: str, value: _Value) -> _Value:
        """Make an expression a line of its own."""
        fresh = self._fresh(name)
        self.lines.append((fresh, value.expr))
        self.shapes[fresh] = value.shape
        return _Value(ast.Name(fresh), value.shape)

    def _unpack(self, names: list[str], value: ast.expr) -> None:
        fresh = [self._fresh(name) for name in names]
        self.host.assign(", ".join(fresh), ast.unparse(self._lower(value).expr))
        for name, new in zip(names, fresh, strict=True):
            self.env[name] = _Value(ast.Name(new))

    def _decide(self, test: ast.expr) -> bool:
        """Answer an `if`, and have the host function check the answer at every step."""
        answer = self.host.decide(self._lower(test).expr)
        self.decisions.append((ast.unparse(test), answer))
        return answer

    def _fresh(self, name: str) -> str:
        """Give each assignment a name of its own: `g`, then `g_1`, `g_2`, ..."""
        fresh = next(n for i in itertools.count(1) if (n := f"{name}_{i}") not in self.taken)
        self.taken.add(fresh)
        return fresh

    # ---- expressions --------------------------------------------------------------------------

    def _lower(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant():
                return _Value(node)
            case ast.Name(id=name):
                value = self.env[name]
                assert value is not None, name
                return value
            case ast.Subscript(value=value, slice=index):
                return _Value(ast.Subscript(self._lower(value).expr, index))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._lower(operand)
            case ast.UnaryOp(op=op, operand=operand):
                value = self._lower(operand)
                return _Value(ast.UnaryOp(op, value.expr), value.shape)
            case ast.BinOp():
                return self._binary(node)
            case ast.BoolOp(op=op, values=values):
                return _Value(ast.BoolOp(op, [self._lower(v).expr for v in values]))
            case ast.Compare() if (name := none_test(node)) is not None:
                return self._none_test(node, self.env[name])
            case ast.Compare(left=left, ops=ops, comparators=[right]):
                return self._join([left, right], lambda a, b: ast.Compare(a, ops, [b]))
            case ast.Call(func=func, args=args):
                word = self.formula.words[ast.unparse(func)]
                if word in FACTS:
                    return self._fact(word)
                if word in WHOLE:
                    return self._whole(node, word)
                return self._join(args, lambda *parts: ast.Call(ast.Name(word), [*parts], []))
        raise AssertionError(ast.dump(node))

    def _none_test(self, node: ast.Compare, value: _Value | None) -> _Value:
        """Answer `name is None` for a state, which the plan knows; leave the rest to the host."""
        if value is not None and not value.element:
            return _Value(ast.Compare(value.expr, node.ops, node.comparators))
        return _Value(ast.Constant((value is None) is isinstance(node.ops[0], ast.Is)))

    def _binary(self, node: ast.BinOp) -> _Value:
        left, right = self._lower(node.left), self._lower(node.right)
        shape = broadcast(left.shape, right.shape)
        if isinstance(node.op, ast.Div) and not right.element and shape != HOST:
            # One division per step instead of one per element; and a total may be zero.
            right = _Value(ast.Call(ast.Name("_inverse"), [right.expr], []), right.shape)
            node = ast.BinOp(node.left, ast.Mult(), node.right)
        if not (left.element or right.element):
            return _Value(ast.BinOp(left.expr, node.op, right.expr), shape)
        if isinstance(node.op, ast.Pow) and left.element and isinstance(right.expr, ast.Constant):
            return _Value(ast.BinOp(left.expr, node.op, right.expr), shape)
        return _Value(ast.BinOp(self._element(left), node.op, self._element(right)), shape)

    def _join(self, parts: list[ast.expr], make: Callable[..., ast.expr]) -> _Value:
        values = [self._lower(part) for part in parts]
        shape = broadcast(*(value.shape for value in values))
        if any(value.element for value in values):
            return _Value(make(*map(self._element, values)), shape)
        return _Value(make(*(value.expr for value in values)), shape)

    def _fact(self, word: str) -> _Value:
        """Ask for the parameter's shape, on the host."""
        self.host.ask_for_shape()
        return _Value(ast.Call(ast.Name(word), [ast.Name("_p")], []))

    def _whole(self, node: ast.Call, word: str) -> _Value:
        """Make a word of a whole tensor a line of its own, over lines of their own."""
        count = WHOLE[word].tensors
        tensors = [self._named(word, self._lower(arg)) for arg in node.args[:count]]
        shape = WHOLE[word].makes.get(tensors[0].shape)
        if shape is None:
            raise FormulaError(
                f"{self.formula.name}: `{ast.unparse(node)}` takes a tensor, "
                f"this is one value for a {tensors[0].shape}"
            )
        sources = [ast.unparse(self._lower(arg).expr) for arg in node.args[count:]]
        objects = [ast.Name(self.host.object(source, self._fresh)) for source in sources]
        call = ast.Call(ast.Name(word), [*(t.expr for t in tensors), *objects], [])
        key = ast.unparse(call)
        if shape == TOTAL:
            return self._total(f"total_{self.formula.name}_{node.lineno}_{node.col_offset}", call)
        if key not in self.wholes:
            made = self._line(word, _Value(call, shape))
            assert isinstance(made.expr, ast.Name)
            self.wholes[key] = made.expr.id
        return _Value(ast.Name(self.wholes[key]), shape)

    def _named(self, word: str, value: _Value) -> _Value:
        """Return a value by a name; a gradient that torch is to see is scaled first."""
        is_raw = isinstance(value.expr, ast.Name) and value.expr.id == "g"
        if isinstance(value.expr, ast.Name) and not (is_raw and word not in REDUCTIONS):
            return value
        key = ast.unparse(value.expr)  # a name is given a value once, so equal text is equal
        if key not in self.named:
            self.named[key] = self._line("g" if is_raw else f"of_{word}", value)
        return self.named[key]

    def _total(self, name: str, call: ast.Call) -> _Value:
        """Take a sum over all parameters from whoever adds it up, by its place in the formula."""
        if name not in self.totals:
            self.totals.append(name)
            self.lines.append((name, call))
            self.shapes[name] = TOTAL
            self.host.after[name] = frozenset({name})
            self._given(name, math.nan, "_unknown")
        return _Value(ast.Name(name), TOTAL)

    def _element(self, value: _Value) -> ast.expr:
        """Return an expression for the line: a host value becomes a scalar, once."""
        if value.element:
            return value.expr
        return ast.Name(self.host.slot(ast.unparse(value.expr), self._fresh))

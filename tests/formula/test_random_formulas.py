"""Random formulas of the language: the kernel gives the reference's numbers, and floats do too.

How far apart two right answers may lie depends on the formula: cancellation and division amplify
rounding. So the bound is measured: the reference runs again with every result of an operation
moved by a few rounding units at random, and the answer must lie within a few times of what that
moves. What no rounding moves (NaN, Inf, a choice that is not close) must be equal.
"""

import importlib.util
import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from steepest.optim.optimizer import Optimizer

ELEMENTS, HOST = ["p", "g"], ["lr", "scale", "beta1", "betas[1]", "0.5", "2", "1.75", "step"]
DECISIONS = ["flag", "not flag", "lr > 0.5", "flag or scale <= 1", "flag and lr < 1", "step > 2"]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0]

# ---- drawing a formula --------------------------------------------------------------------------


@dataclass
class Draft:
    """A formula as it is being written: its lines, and the names that have a value."""

    draw: object
    names: list[str] = field(default_factory=lambda: list(ELEMENTS))
    lines: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=lambda: list(HOST))
    forms: list = field(default_factory=lambda: FORMS)

    def pick(self, items):
        return self.draw(st.sampled_from(items))

    def element(self, depth: int = 3) -> str:
        """An expression of elements, `depth` operations deep at most."""
        if depth == 0:
            return self.pick(self.names)
        x = self.element(depth - 1)
        return self.pick(self.forms)(
            x, lambda: self.element(depth - 1), lambda: self.pick(self.host)
        )

    def block(self, indent: str, decisions: int) -> None:
        """Some lines, that change old names or make new ones where nothing is decided."""
        for _ in range(self.draw(st.integers(1, 2))):
            new = [] if indent else [f"x{len(self.names)}"]
            target = self.pick([*self.names, *new])
            self.lines.append(f"{indent}{target} = {self.element()}")
            self.names += [target] * (target not in self.names)
        if decisions:
            self.lines.append(f"{indent}if {self.pick(DECISIONS)}:")
            self.block(indent + "    ", decisions - 1)
            if self.draw(st.booleans()):
                self.lines.append(f"{indent}else:")
                self.block(indent + "    ", 0)


FORMS = [
    lambda x, e, h: f"({x} + {e()})",
    lambda x, e, h: f"({h()} - {x})",
    lambda x, e, h: f"({x} - {h()} * {e()})",
    lambda x, e, h: f"{x} * {h()} * {e()}",
    lambda x, e, h: f"({x} / (abs({e()}) + {h()}))",
    lambda x, e, h: f"({x} / {h()})",
    lambda x, e, h: f"({h()} / {x})",
    lambda x, e, h: f"({x} / (1 - beta1**step))",
    lambda x, e, h: f"(-{x})",
    lambda x, e, h: f"({x}) ** 2",
    lambda x, e, h: f"({x}) ** 3",
    lambda x, e, h: f"abs({x}) ** 0.5",
    lambda x, e, h: f"abs({x}) ** 1.25",
    lambda x, e, h: f"abs({x}) ** ({h()} + 1)",
    lambda x, e, h: f"({h()}) ** minimum({x}, 3)",
    lambda x, e, h: f"sqrt(abs({x}) + {h()})",
    lambda x, e, h: f"sqrt({x})",
    lambda x, e, h: f"exp(minimum({x}, {h()}))",
    lambda x, e, h: f"log(abs({x}) + sqrt({h()}))",
    lambda x, e, h: f"log({x})",
    lambda x, e, h: f"(sign({x}) * {e()})",
    lambda x, e, h: f"maximum({x}, {e()})",
    lambda x, e, h: f"minimum({e()}, {h()} - exp(-lr))",
    lambda x, e, h: f"where({x} < {e()}, {x}, {h()})",
    lambda x, e, h: f"where({x} >= {h()}, {h()}, {h()} * 0.25)",
    lambda x, e, h: f"where({x} == {h()}, {h()}, {e()})",
    lambda x, e, h: f"where({h()} != {x}, {e()}, {x})",
    lambda x, e, h: f"where(flag, {x}, {e()})",
    lambda x, e, h: f"where({x} > 0, {h()}, where({e()} <= 1, {x}, {h()}))",
]


WHOLE = [
    lambda x, e, h: f"({x} / (norm({e()}) + {h()}))",
    lambda x, e, h: f"({x} - mean({e()}))",
    lambda x, e, h: f"where(norm({x}) > {h()}, {e()}, {x})",
    lambda x, e, h: f"({x} / (1 + abs(total({e()}))))",
    lambda x, e, h: f"where(total({e()}) > {h()}, {x}, {h()})",
]
"""What sees a whole tensor."""


@st.composite
def formulas(draw, whole=False) -> str:
    """The source of a formula `rule` with up to three states, one of them perhaps tested.

    `whole` draws words of a whole tensor, too, and two states of one number.
    """
    states = draw(st.permutations(["m", "sum", "n", "s_1", "p_1"]))[: draw(st.integers(0, 3))]
    draft = Draft(draw)
    counts = ["pace", "fall"] if whole else []
    if whole:
        draft.forms = [*FORMS, *WHOLE, *WHOLE]
        draft.lines += ["if fall is None:", "    fall = 1.0", "fall = 0.9 * fall * beta1"]
        draft.lines.append(f"pace = 0.5 * pace + {draft.pick(HOST)} + fall")
        draft.host += ["pace", "fall"]
    for k, state in enumerate(states):
        tested = k == 0 and draw(st.booleans())
        update = f"{state} = {draft.pick(HOST)} * {state} + {draft.element(2)}"
        if tested:
            first = draft.pick(["g", "lr", draft.element(1)])
            draft.lines += [f"if {state} is None:", f"    {state} = {first}", "else:"]
        draft.lines.append("    " * tested + update)
        draft.names.append(state)
    draft.block("", decisions=draw(st.integers(0, 2)))
    if draw(st.booleans()):
        draft.lines += ["if flag:", "    lr = lr * 0.5 + 1 / step", "beta1 = beta1 * scale"]
    draft.lines.append(f"p = p - lr * {draft.element()} * beta1")
    states = [*states, *counts]
    returned = ", ".join(["p", *states])
    seen = ", mean, norm, total" if whole else ""
    body = "".join(f"    {line}\n" for line in ["beta1, _ = betas", *draft.lines])
    return (
        f"from steepest.formula import exp, log, maximum, minimum, sign, sqrt, where{seen}\n\n\n"
        f"def rule({', '.join(['p', 'g', *states])}, *, step, lr, scale, flag, betas):\n"
        f"{body}    return {returned}\n"
    )


values = st.sampled_from([0.1, 0.3, 0.7, 1.1, 1.9])
groups = st.fixed_dictionaries(
    {
        "lr": values,
        "scale": values,
        "flag": st.booleans(),
        "betas": st.tuples(*[st.sampled_from([0.2, 0.5, 0.9])] * 2),
    }
)


# ---- running it ---------------------------------------------------------------------------------


class Rounded(TorchDispatchMode):
    """Moves every result of an operation by up to two rounding units of a dtype."""

    MOVED = (
        "add", "sub", "rsub", "mul", "div", "pow", "sqrt", "exp", "log", "reciprocal", "where",
        "linalg_vector_norm", "mean", "sum",
    )  # fmt: skip

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = torch.finfo(dtype).eps

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if func.overloadpacket.__name__ in self.MOVED and result.is_floating_point():
            result = result * (1 + self.eps * (4 * torch.rand_like(result) - 2))
        return result


def optimizer(path, source: str) -> type[Optimizer]:
    """Make a class of a formula in a file of its own, as a user does."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Mine(Optimizer, formula=module.rule):
        pass

    return Mine


def reference_step(kernel: Optimizer, rounded: bool) -> dict[str, torch.Tensor]:
    """Make the step that `kernel` is about to make, by the reference, on copies."""
    p = kernel.param_groups[0]["params"][0]
    copy = Parameter(p.detach().clone())
    copy.grad = p.grad.clone()
    group = {k: v for k, v in kernel.param_groups[0].items() if k in kernel.formula.hyperparameters}
    other = type(kernel)([copy], **group, fused=False)
    other.load_state_dict(kernel.state_dict())
    other.param_groups[0]["fused"] = False
    if rounded:
        with Rounded(p.dtype):
            other.step()
    else:
        other.step()
    return results(other)


def results(made: Optimizer) -> dict[str, torch.Tensor]:
    """Return copies of p and every state."""
    p = made.param_groups[0]["params"][0]
    states = {k: t for k, t in made.state.get(p, {}).items() if k != "step"}
    return {name: t.detach().clone() for name, t in {"p": p, **states}.items()}


def on_numbers(made: Optimizer) -> dict[str, torch.Tensor]:
    """Make the same step element by element, on Python's floats; where Python raises, complex."""
    p = made.param_groups[0]["params"][0]
    formula, own = made.formula, made.state.get(p, {})
    group = {k: made.param_groups[0][k] for k in formula.hyperparameters}
    new = []
    step = int(own.get("step", 0)) + 1
    for k in range(p.numel()):
        there = {s: own[s][k].item() for s in formula.states if s in own}
        start = {s: None if s in formula.tested else 0.0 for s in formula.states}
        old = {**start, **there}.values()
        try:
            value = formula(p[k].item(), p.grad[k].item(), *old, step=step, **group)
            new.append(value if formula.states else (value,))
        except ArithmeticError:  # Python refuses a division by zero and an overflowing power
            new.append([1j] * (1 + len(formula.states)))
    columns = zip(*new, strict=True)
    names = ("p", *formula.states)
    return {
        name: torch.tensor([complex(x) for x in column], dtype=torch.complex128)
        for name, column in zip(names, columns, strict=True)
    }


def compare(actual, expected, moved) -> int:
    """Assert that a result lies where rounding may put it; return how many elements were sharp.

    An element is sharp when rounding moves it by less than a thousandth.
    """
    moved = torch.stack(moved).double()
    actual, tiny = actual.double(), 16 * torch.finfo(expected.dtype).tiny
    expected = expected.double()
    nan = expected.isnan() & moved.isnan().all(0)
    infinite = expected.isinf() & (moved == expected).all(0)
    assert actual[nan].isnan().all()
    assert torch.equal(actual[infinite], expected[infinite])
    finite = expected.isfinite() & moved.isfinite().all(0)
    bound = 4 * (moved - expected).abs().amax(0) + tiny
    inside = (actual - expected).abs() <= bound
    assert inside[finite].all(), (actual[finite & ~inside], expected[finite & ~inside])
    sharp = finite & (bound <= 1e-3 * expected.abs() + tiny) | nan | infinite
    return int(sharp.sum())


class Drawn:
    """Draws p and g anew for a step: normal numbers, and some special ones."""

    def __init__(self, size: int, dtype: torch.dtype, special: bool, seed: int) -> None:
        self.size, self.dtype, self.special = size, dtype, special
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self) -> torch.Tensor:
        x = torch.randn(self.size, dtype=self.dtype, generator=self.random)
        places = torch.randperm(self.size, generator=self.random)[: self.special * self.size // 4]
        kinds = torch.randint(len(SPECIAL), places.shape, generator=self.random)
        x[places] = torch.tensor(SPECIAL, dtype=self.dtype)[kinds]
        return x


@pytest.mark.parametrize("whole", [False, True], ids=["element by element", "whole tensors"])
def test_kernel_reference_and_numbers_agree(whole, tmp_path):
    sharp = total = examples = 0

    @settings(
        max_examples=25,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # an example that fails is small enough to be read
        suppress_health_check=list(HealthCheck),
    )
    @given(
        source=formulas(whole=whole),
        group=groups,
        size=st.sampled_from([1, 3, 17, 33]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        special=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def agree(source, group, size, dtype, special, seed):
        nonlocal sharp, total, examples
        examples += 1
        mine = optimizer(tmp_path / f"rule_{examples}.py", source)
        draw = Drawn(size, dtype, special, seed)
        p = Parameter(draw())
        made = mine([p], **group, fused=True)
        for step in range(1, 5):
            p.grad = draw()
            made.param_groups[0]["lr"] *= 0.9
            made.param_groups[0]["flag"] ^= step == 3
            expected = reference_step(made, rounded=False)
            moved = [reference_step(made, rounded=True) for _ in range(8)]
            numbers = on_numbers(made) if dtype is torch.float64 and not whole else {}
            made.step()
            actual = results(made)
            assert actual.keys() == expected.keys()
            for name in actual:
                others = [result[name] for result in moved]
                sharp += compare(actual[name], expected[name], others)
                total += actual[name].numel()
                if name in numbers:
                    real = numbers[name].imag == 0
                    kept = [t[real] for t in (numbers[name].real, expected[name])]
                    compare(*kept, [t[real] for t in others])

    agree()
    assert examples >= 25
    assert sharp > 0.8 * total, "the formulas are too sensitive to tell right from wrong"

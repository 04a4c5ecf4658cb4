"""A step as one graph: the numbers of the loop, the optimizer's states, and what is refused.

Most rows have the traced step run by torch's own operations; what only native code can get wrong
has rows of its own, for compiling that takes seconds.
"""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.clip import clip_grad_norm_
from steepest.errors import HyperparameterError, RecipeError, RunError, StateError
from steepest.formula import sqrt
from steepest.schedules import cosine
from steepest.train.compiled import graph
from steepest.train.compiled.step import (
    CHECKED,
    TIMED,
    CompiledStep,
    eager_microseconds,
    steps_to_pay,
)

loss_fn = nn.MSELoss()


def own_rule(p, g, slow, fast, *, step, lr=1e-2, beta=0.9, switch=5):
    if fast is None:
        fast = 0 * g
    fast = beta * fast + (1 - beta) * g * g
    if step > switch:
        slow = slow + lr * g
    p = p - lr * (slow + g / (sqrt(fast) + 1e-3)) / (1 - beta**step)
    return p, slow, fast


class Own(optim.Optimizer, formula=own_rule):
    """A rule of the user's, with a state tested for None and another line after some steps."""


@pytest.fixture
def quick(monkeypatch):
    """Run what was traced by torch's own operations; return the list of what was made."""
    made = []

    def by_torch(module, example):
        made.append(module)
        return module.forward

    monkeypatch.setattr(graph, "by_inductor", by_torch)
    return made


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)


def noisy():
    """Return a model with buffers and with random numbers, in float32."""
    torch.manual_seed(0)
    layers = nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 1)
    return nn.Sequential(*layers)


def by_reference(optimizer):
    """Have an optimizer's own steps run by the reference, which compiles nothing."""
    for group in optimizer.param_groups:
        group["fused"] = False
    return optimizer


def batches(count=12, rows=8, dtype=torch.float64):
    made = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(rows, 5, generator=made, dtype=dtype)
        yield x, torch.sin(x).sum(1, keepdim=True)


def eager(model, optimizer, x, y, clip=None):
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


def same(ours, theirs, close):
    """Compare two pairs (model, optimizer): parameters, buffers and every state."""
    for a, b in zip(ours[0].state_dict().values(), theirs[0].state_dict().values(), strict=True):
        close(a, b) if a.is_floating_point() else torch.testing.assert_close(a, b)
    for p, q in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        entry, expected = ours[1].state.get(p, {}), theirs[1].state.get(q, {})
        assert entry.keys() == expected.keys()
        for name, value in expected.items():
            close(entry[name], value)


def decayed(model):
    return optim.groups(model, {"*.bias": {"weight_decay": 0.0, "lr": 0.02}})


RULES = {
    "clipped": (lambda m: optim.SGD(m.parameters(), lr=0.01, momentum=0.9, nesterov=True), 0.5),
    "groups": (lambda m: optim.AdamW(decayed(m), lr=0.01, amsgrad=True, maximize=True), None),
    "a number": (lambda m: optim.NAdam(m.parameters(), average="mean"), None),
    "two lines": (lambda m: optim.RAdam(m.parameters(), average="ema", average_decay=0.8), None),
    "a norm": (lambda m: optim.LAMB(m.parameters(), lr=0.01, clip_norm=0.1), None),
    "rows": (lambda m: optim.Adafactor(m.parameters(), clip_value=0.01), None),
    "schedule": (
        lambda m: optim.ScheduleFreeAdamW(m.parameters(), lr=cosine(0.1, total=10, warmup=3)),
        None,
    ),
    "own formula": (lambda m: Own(m.parameters(), zero_grad=True), None),
}
"""What a graph could get wrong, several in a row where they do not meet."""


@pytest.mark.parametrize("rule", RULES)
def test_makes_the_loop_s_numbers(rule, quick, close):
    make, clip = RULES[rule]
    model, twin = net(), net()
    optimizer, theirs = by_reference(make(model)), by_reference(make(twin))
    step = CompiledStep(model, optimizer, loss_fn, clip)
    for x, y in batches():
        close(step([x], y), eager(twin, theirs, x, y, clip))
    same((model, optimizer), (twin, theirs), close)
    assert 1 <= len(quick) <= 2
    assert step.compile_seconds > 0


def test_mixed_rules_and_matrices(quick):
    """Muon's products are of bfloat16, whose rounding the graph moves."""

    def make(model):
        groups = optim.groups(model, {optim.matrices: {"optimizer": optim.Muon, "lr": 0.01}})
        return optim.Mixed(groups, lr=0.01)

    model, twin = net(), net()
    step = CompiledStep(model, by_reference(make(model)), loss_fn)
    theirs = by_reference(make(twin))
    for x, y in batches():
        step([x], y)
        eager(twin, theirs, x, y)
    for p, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=0.02, atol=0.02)


# ---- native code ------------------------------------------------------------------------------


NATIVE = {
    "dropout": (noisy, lambda m: optim.AdamW(m.parameters(), lr=cosine(0.1, total=10)), 0.1),
    "numbers": (net, lambda m: optim.NAdam(m.parameters(), average="mean"), None),
}


@pytest.mark.parametrize("row", NATIVE)
def test_native_code_makes_the_loop_s_numbers(row, close):
    """Its random numbers are the loop's, and the states of one number are not lost."""
    model, make, clip = NATIVE[row]
    model, twin = model(), model()
    optimizer, theirs = by_reference(make(model)), by_reference(make(twin))
    step, dtype = CompiledStep(model, optimizer, loss_fn, clip), model[0].weight.dtype
    torch.manual_seed(2)
    ours = [step([x], y) for x, y in batches(dtype=dtype)]
    torch.manual_seed(2)
    for loss, (x, y) in zip(ours, batches(dtype=dtype), strict=True):
        close(loss, eager(twin, theirs, x, y, clip))
    same((model, optimizer), (twin, theirs), close)


# ---- what changes from step to step -----------------------------------------------------------


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_new_lr_makes_no_new_graph(kind, quick, close):
    model, twin = net(), net()
    optimizer = optim.Adam(model.parameters(), lr=kind(0.1))
    theirs = optim.Adam(twin.parameters(), lr=kind(0.1))
    step = CompiledStep(model, optimizer, loss_fn)
    for k, (x, y) in enumerate(batches(CHECKED + 3)):  # past the step at which torch looks
        for group in (*optimizer.param_groups, *theirs.param_groups):
            group["lr"], group["betas"] = kind(0.1 / (k + 1)), (0.9 - k / 100, 0.99)
        step([x], y)
        eager(twin, theirs, x, y)
    same((model, optimizer), (twin, theirs), close)
    assert len(quick) == 1


SHORT = {
    "odd": (lambda m: optim.Adam(m.parameters()), 8, 1),
    "odd, numbers": (lambda m: optim.NAdam(m.parameters(), average="mean"), 8, 1),
    "odd, norms": (lambda m: optim.SGD(m.parameters(), norms=True, clip_norm=0.1), 8, 1),
    "graphs": (lambda m: optim.Adam(m.parameters()), None, 2),
}


@pytest.mark.parametrize("row", SHORT)
def test_a_short_batch(row, quick, close):
    """The optimizer's own kernels make its step, and know of the steps of the graph."""
    make, rows, graphs = SHORT[row]
    model, twin = net(), net()
    optimizer, theirs = make(model), make(twin)
    step = CompiledStep(model, optimizer, loss_fn, rows=rows)
    for _ in range(3):
        for x, y in [*batches(4), *batches(1, rows=3)]:
            step([x], y)
            eager(twin, theirs, x, y)
            if "norms" in row:
                assert optimizer.norms.update == pytest.approx(theirs.norms.update)
                close(optimizer.grad_norm, theirs.grad_norm)
    same((model, optimizer), (twin, theirs), close)
    assert len(quick) == graphs


def test_too_many_shapes(quick, monkeypatch):
    monkeypatch.setattr("steepest.train.compiled.step.GRAPHS", 3)
    step = CompiledStep(model := net(), optim.SGD(model.parameters()), loss_fn)
    for rows in (1, 2, 3):
        for x, y in batches(1, rows=rows):
            step([x], y)
    with pytest.raises(RunError, match=r"3 at most: got one more, \(9, 1\)"):
        step([torch.zeros(9, 5).double()], torch.zeros(9, 1).double())


def test_a_target_that_is_the_input(quick, close):
    """The second batch has two tensors where the first had one twice."""
    model, twin = (nn.Linear(5, 5).double() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    step = CompiledStep(model, optim.SGD(model.parameters(), lr=0.1), loss_fn)
    theirs = optim.SGD(twin.parameters(), lr=0.1)
    for k, (x, _) in enumerate(batches(6)):
        y = x if k < 3 else x.roll(1)
        close(step([x], y), eager(twin, theirs, x, y))


def test_states_that_are_replaced_are_followed(quick, close):
    """Checkpoints are loaded and the optimizer steps by itself, in between."""
    model, twin = net(), net()
    optimizer, theirs = optim.Adam(model.parameters()), optim.Adam(twin.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for k, (x, y) in enumerate(batches()):
        step([x], y) if k % 4 else eager(model, optimizer, x, y)
        eager(twin, theirs, x, y)
        if k == 5:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    for x, y in [*batches()][6:]:
        step([x], y)
    same((model, optimizer), (twin, theirs), close)
    assert len(quick) == 1


def test_loaded_groups_are_followed(quick):
    """An optimizer without states has nothing else that a loaded state_dict replaces."""
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = CompiledStep(model, optimizer, loss_fn)
    (x, y), *_ = batches(1)
    step([x], y)
    step([x], y)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.0
    optimizer.load_state_dict(state)
    before = model[0].weight.detach().clone()
    step([x], y)
    assert torch.equal(model[0].weight, before)


def test_a_frozen_and_an_unused_parameter(quick, close):
    model, twin = net(), net()
    for side in (model, twin):
        side.unused = nn.Parameter(torch.ones(2).double())
        side[0].bias.requires_grad_(False)
    optimizer, theirs = optim.Adam(model.parameters()), optim.Adam(twin.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for k, (x, y) in enumerate(batches()):
        if k == 8:
            for side in (model, twin):
                side[2].weight.requires_grad_(False)
        step([x], y)
        eager(twin, theirs, x, y)
    same((model, optimizer), (twin, theirs), close)
    assert not optimizer.state.get(model.unused)


def test_what_the_model_reads_is_looked_at(quick, close):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.line, self.scale = nn.Linear(5, 1).double(), 1.0

        def forward(self, x):
            return self.line(x) * self.scale

    model = Scaled()
    twin = copy.deepcopy(model)
    optimizer, theirs = optim.SGD(model.parameters()), optim.SGD(twin.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for k, (x, y) in enumerate(batches()):
        if k == 6:
            model.scale = twin.scale = 3.0
            step.look()
        close(step([x], y), eager(twin, theirs, x, y))
    assert len(quick) == 2


def test_modes_have_graphs_of_their_own(quick, close):
    model, twin = noisy(), noisy()
    step = CompiledStep(model, optim.SGD(model.parameters()), loss_fn)
    theirs = optim.SGD(twin.parameters())
    for k, (x, y) in enumerate(batches(dtype=torch.float32)):
        for side in (model, twin):
            side.train(k < 6)
        torch.manual_seed(k)
        ours = step([x], y)
        torch.manual_seed(k)
        close(ours, eager(twin, theirs, x, y))


def test_a_loss_that_is_not_finite_changes_nothing(quick, close):
    model, twin = net(), net()
    optimizer, theirs = optim.Adam(model.parameters()), optim.Adam(twin.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for k, (x, y) in enumerate(batches()):
        bad = k in (0, 5)
        loss = step([x], y * math.nan if bad else y)
        assert bool(loss.isnan()) is bad
        if not bad:
            eager(twin, theirs, x, y)
    same((model, optimizer), (twin, theirs), close)


# ---- what is told -----------------------------------------------------------------------------


def test_norms(quick, close):
    model, twin = net(), net()
    optimizer = optim.Adam(model.parameters(), norms=True, clip_norm=0.1)
    theirs = optim.Adam(twin.parameters(), norms=True, clip_norm=0.1)
    step = CompiledStep(model, optimizer, loss_fn)
    for x, y in batches():
        step([x], y)
        eager(twin, theirs, x, y)
        close(step.gradient_norm.float(), theirs.grad_norm.float())
        close(optimizer.grad_norm, theirs.grad_norm)
        found, expected = optimizer.norms, theirs.norms
        assert found.by_parameter.keys() == expected.by_parameter.keys()
        for name in ("gradient", "parameter", "update", "nonfinite"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)


def test_mixed_precision(quick):
    model, twin = net(torch.float32), net(torch.float32)
    optimizer, theirs = optim.Adam(model.parameters()), optim.Adam(twin.parameters())
    step = CompiledStep(model, optimizer, loss_fn, autocast=torch.bfloat16)
    for x, y in batches(dtype=torch.float32):
        whole = loss_fn(model(x), y).item()
        loss = step([x], y)
        assert loss.item() != whole
        with torch.autocast("cpu", torch.bfloat16):
            expected = loss_fn(twin(x), y)
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-3, atol=1e-3)
    assert model[0].weight.dtype is torch.float32


def test_timing_a_step_without_a_graph_changes_nothing(quick):
    model = noisy()
    optimizer = optim.Adam(model.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for x, y in batches(CHECKED + TIMED, dtype=torch.float32):
        step([x], y)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    numbers = torch.get_rng_state()
    assert eager_microseconds(step, [x], y) > 0
    assert step.microseconds > 0
    assert "a step takes" in step.told()[0]
    assert torch.equal(torch.get_rng_state(), numbers)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), before)


@pytest.mark.parametrize(
    ("seconds", "eager_us", "compiled_us", "steps"),
    [(4.0, 140.0, 40.0, 40_000), (1.0, 30.0, 30.0, math.inf), (1.0, 30.0, 31.0, math.inf)],
)
def test_steps_to_pay(seconds, eager_us, compiled_us, steps):
    assert steps_to_pay(seconds, eager_us, compiled_us) == steps


def test_an_import_is_not_slowed():
    code = (
        "import sys, steepest.train.compiled.step;"
        "assert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what is refused --------------------------------------------------------------------------


def with_hook(model):
    optimizer = optim.SGD(model.parameters())
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def with_gradient_hook(model):
    model[0].weight.register_hook(lambda g: g * 2)
    return optim.SGD(model.parameters())


def with_one_number(model):
    model.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    return optim.SGD(model.parameters())


def with_one_number_kept(model):
    model.register_buffer("scale", torch.tensor(1.0, dtype=torch.float64))
    return optim.SGD(model.parameters())


def in_backward(model):
    optimizer = optim.SGD(model.parameters())
    optimizer.step_in_backward()
    return optimizer


REFUSED = {
    "torch": (lambda m: torch.optim.Adam(m.parameters()), "adam.Adam has a step of its own"),
    "lbfgs": (lambda m: optim.LBFGS(m.parameters()), "LBFGS has a step of its own"),
    "total": (lambda m: optim.Prodigy(m.parameters()), "sums over all parameters"),
    "bases": (lambda m: optim.SOAP(m.parameters()), "bases of matrices"),
    "skip": (lambda m: optim.SGD(m.parameters(), skip_nonfinite=True), "skip_nonfinite"),
    "recorded": (lambda m: optim.SGD(m.parameters(), differentiable=True), "differentiable"),
    "hook": (with_hook, "hooks on its step"),
    "gradient hook": (with_gradient_hook, r"of shape \(3, 5\) has hooks on its gradient"),
    "one number": (with_one_number, r"of shape \(\) is one float64 number"),
    "one number kept": (with_one_number_kept, "the buffer scale is one float64 number"),
    "in backward": (in_backward, "in the backward pass"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_is_refused_before_the_first_step(row):
    make, reason = REFUSED[row]
    model = net()
    optimizer = make(model)
    with pytest.raises(RecipeError, match=rf"^--compile step.*{reason}.* without --compile step$"):
        CompiledStep(model, optimizer, loss_fn)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(5, 1).double()

    def forward(self, x):
        y = self.line(x)
        return y if y.sum() > 0 else -y


class Counting(Branching):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.line(x) * self.calls


def test_a_step_that_is_no_graph_is_refused(quick):
    model = Branching()
    step = CompiledStep(model, optim.SGD(model.parameters()), loss_fn)
    (x, y), *_ = batches(1)
    with pytest.raises(RecipeError, match=r"Data-dependent branching .* in line \d+ of .*compiled"):
        step([x], y)


def test_a_graph_that_changes_each_step_is_refused(quick):
    model = Counting()
    step = CompiledStep(model, optim.SGD(model.parameters()), loss_fn)
    (x, y), *_ = batches(1)
    for _ in range(4):
        step([x], y)
    with pytest.raises(RunError, match="changed 4 times in a row"):
        step([x], y)


def test_a_late_first_gradient_is_refused(quick):
    model = net()
    model.late, used = nn.Parameter(torch.ones(1).double()), [False]

    def with_late(prediction, target):
        return loss_fn(prediction * model.late if used[0] else prediction, target)

    step = CompiledStep(model, optim.Adam(model.parameters()), with_late)
    for x, y in batches(6):
        step([x], y)
    used[0] = True
    step.look()
    with pytest.raises(RecipeError, match="first gradient after the first step"):
        step([x], y)


def test_a_parameter_that_is_moved_is_seen(quick, close):
    """Its memory, its dtype and its shape: native code would read what is no longer there."""
    model, twin = net(), net()
    step = CompiledStep(model, optim.SGD(model.parameters(), lr=0.1), loss_fn)
    theirs = by_reference(optim.SGD(twin.parameters(), lr=0.1))
    for k, (x, y) in enumerate(batches()):
        for side in (model, twin):
            if k == 4:
                side[0].weight.data = side[0].weight.data.clone()
            if k == 6:
                side.to(torch.float32)
            if k == 8:
                side[0].weight.data = side[0].weight.data.t().contiguous().t()
        like = model[0].weight.dtype
        close(step([x.to(like)], y.to(like)), eager(twin, theirs, x.to(like), y.to(like)))
    assert len(quick) == 3


@pytest.mark.parametrize("given", ["text", [torch.zeros(8, 5)], torch.eye(8).to_sparse()])
def test_a_batch_of_something_else_is_refused(given):
    step = CompiledStep(model := net(), optim.SGD(model.parameters()), loss_fn)
    with pytest.raises(RecipeError, match=f"dense tensors, got a {type(given).__name__};"):
        step([given], torch.zeros(8, 1))


def test_no_step_while_averages_stand_in(quick):
    model = net()
    optimizer = optim.SGD(model.parameters(), average="mean")
    step = CompiledStep(model, optimizer, loss_fn)
    for x, y in batches(3):
        step([x], y)
    with optimizer.averaged(), pytest.raises(StateError, match="averages stand in"):
        step([x], y)


def test_a_scalar_that_cannot_be_computed(quick):
    model = net()
    optimizer = optim.Adam(model.parameters())
    step = CompiledStep(model, optimizer, loss_fn)
    for x, y in batches(3):
        step([x], y)
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(HyperparameterError, match="a scalar of the formula cannot be computed"):
        step([x], y)

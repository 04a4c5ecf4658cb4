"""A user's own optimizers: a formula and a class of two lines; subclasses of ours."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import FormulaError, HyperparameterError
from steepest.formula import sign
from steepest.optim import Optimizer
from steepest.optim.around import AROUND


def lion(p, g, exp_avg, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Chen et al. 2023, Algorithm 2, https://arxiv.org/abs/2302.06675"""
    beta1, beta2 = betas
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    p = p - lr * (update + weight_decay * p)
    return p, exp_avg


class Lion(Optimizer, formula=lion):
    """Lion: the sign of an interpolated momentum."""


class TorchLion(torch.optim.Optimizer):
    """The same by hand, as one writes it for torch."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                average = state["exp_avg"]
                update = torch.sign(beta1 * average + (1 - beta1) * p.grad)
                average.mul_(beta2).add_(p.grad, alpha=1 - beta2)
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in [(3,), (40, 50), ()]]


def through_a_file(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def train(optimizers, sides, steps):
    for _ in range(steps):
        grads = [torch.randn_like(p.detach()) for p in sides[0]]
        for optimizer, params in zip(optimizers, sides, strict=True):
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            optimizer.step()


@pytest.mark.parametrize("fused", [True, None, False])
def test_own_formula_equals_the_same_by_hand(fused, close):
    """100 steps, the checkpoint swapped both ways, 100 more."""
    sides = [parameters(), parameters()]

    def make():
        options = {"lr": 0.01, "weight_decay": 0.1}
        return [Lion(sides[0], **options, fused=fused), TorchLion(sides[1], **options)]

    optimizers = make()
    train(optimizers, sides, 100)
    saves = [through_a_file(optimizer) for optimizer in optimizers]
    optimizers = make()
    optimizers[0].load_state_dict(saves[1])
    optimizers[1].load_state_dict(saves[0])
    train(optimizers, sides, 100)
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
        close(optimizers[0].state[p]["exp_avg"], optimizers[1].state[q]["exp_avg"])


def test_own_optimizer_has_signature_hints_bounds_and_pickle():
    names = [*inspect.signature(Lion).parameters]
    assert names[:4] == ["params", "lr", "betas", "weight_decay"]
    assert names[4:] == [
        "foreach",
        "maximize",
        "capturable",
        "differentiable",
        "fused",
        *AROUND,
    ]
    with pytest.raises(
        TypeError, match=r"Lion\(\) got an unknown argument 'beta' .did you mean 'bet"
    ):
        Lion(parameters(), beta=(0.9, 0.99))
    with pytest.raises(HyperparameterError, match=r"Lion: lr must be at least 0, not -1"):
        Lion(parameters(), lr=-1)
    assert type(pickle.loads(pickle.dumps(Lion(parameters())))) is Lion


def test_a_hyperparameter_without_default_must_be_given():
    def descent(p, g, *, momentum=0.0, rate):
        return p - rate * (1 + momentum) * g

    class Descent(Optimizer, formula=descent):
        """Plain."""

    with pytest.raises(TypeError, match=r"Descent\(\): missing a required.*'rate'"):
        Descent(parameters())
    params = parameters()
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    Descent(params, rate=0.5).step()
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p, old - 0.5)


def test_own_hyperparameter_names_mean_what_the_formula_says():
    """torch's bounds hold for torch's kinds of values: a tuple of three betas, no momentum."""

    def three(p, g, *, lr=0.1, betas=(0.9, 0.9, 0.9), nesterov=False):
        b1, b2, b3 = betas
        if nesterov:
            g = b1 * g
        return p - lr * b2 * b3 * g

    class Three(Optimizer, formula=three):
        """Three betas."""

    params = parameters()
    for p in params:
        p.grad = torch.ones_like(p)
    Three(params, nesterov=True).step()
    with pytest.raises(HyperparameterError, match="betas must be 3 numbers"):
        Three(params, betas=(0.9, 0.9))


# ---- subclasses ---------------------------------------------------------------------------------


class Warm(optim.Adam):
    """Adam with a constructor of its own and one more option."""

    def __init__(self, params, lr=0.1, *, warmup=10, **options):
        super().__init__(params, lr, **options)
        self.warmup = warmup


def test_a_subclass_with_a_constructor_of_its_own(close):
    sides = [parameters(), parameters()]
    optimizers = [
        Warm(sides[0], warmup=3, amsgrad=True),
        torch.optim.Adam(sides[1], 0.1, amsgrad=True),
    ]
    train(optimizers, sides, 5)
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
    assert optimizers[0].warmup == 3
    assert [*inspect.signature(Warm).parameters] == ["params", "lr", "warmup", "options"]
    with pytest.raises(TypeError, match="did you mean 'amsgrad'"):
        Warm(parameters(), amsgrd=True)


def test_a_subclass_that_steps_its_own_way():
    class Twice(optim.SGD):
        def step(self, closure=None):
            super().step()
            return super().step(closure)

    (p,) = [nn.Parameter(torch.ones(3))]
    p.grad = torch.ones(3)
    optimizer = Twice([p], lr=0.25)
    optimizer.step()
    assert torch.equal(p, torch.full((3,), 0.5))


class Classic(Optimizer):
    """A class as one writes it for torch, over ours."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["count"] = state.get("count", 0) + 1
                    p.data = p.data - group["lr"] * p.grad.data


def test_a_class_without_a_formula_is_as_one_of_torch():
    (p,) = [nn.Parameter(torch.ones(3))]
    p.grad = torch.ones(3)
    optimizer = Classic([p], lr=0.25)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    optimizer.step()
    assert torch.equal(p, torch.full((3,), 0.75))
    assert calls == ["hook"]
    again = Classic([nn.Parameter(torch.ones(3))])
    again.load_state_dict(copy.deepcopy(optimizer).state_dict())
    assert again.state_dict() == optimizer.state_dict()
    assert again.param_groups[0]["lr"] == 0.25
    assert type(again.state_dict()["state"][0]) is dict
    optimizer.zero_grad()
    assert p.grad is None


def ratio(p, g, *, lr=1e-3, part=0.0):
    return p - (lr / part) * g


def test_a_scalar_that_cannot_be_computed_is_a_sentence():
    class Ratio(Optimizer, formula=ratio):
        """Divides one hyperparameter by another."""

    (p,) = [nn.Parameter(torch.ones(3))]
    p.grad = torch.ones(3)
    optimizer = Ratio([p])
    with pytest.raises(HyperparameterError, match=r"ratio: `lr / part` .*part=0.0\): .*by zero"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))
    optimizer.param_groups[0]["part"] = 0.002
    optimizer.step()
    assert torch.equal(p, torch.full((3,), 0.5))
    optimizer.param_groups[0]["part"] = 0
    with pytest.raises(HyperparameterError, match="division by zero"):
        optimizer.step()


def three(p, g, *, lr=1e-3, betas=(0.9, 0.99)):
    beta1, beta2, beta3 = betas
    return p - lr * beta1 * beta2 * beta3 * g


def test_a_hyperparameter_of_the_wrong_shape_is_a_sentence():
    class Three(Optimizer, formula=three):
        """Unpacks one number too many."""

    (p,) = [nn.Parameter(torch.ones(3))]
    p.grad = torch.ones(3)
    with pytest.raises(HyperparameterError, match=r"three: `beta1_1, .* = betas` .*not enough val"):
        Three([p]).step()


def signed(p, g, *, lr=1e-3, alpha=-1.0, eps=(1e-30, 1e-3), momentum=None):
    floor, _ = eps
    return p - lr * alpha * (g + floor)


def test_a_bound_that_the_formulas_own_default_breaks_is_not_its_bound():
    class Signed(Optimizer, formula=signed):
        """Means something else by alpha, eps and momentum."""

    (p,) = [nn.Parameter(torch.zeros(3))]
    p.grad = torch.ones(3)
    Signed([p], lr=0.5, alpha=-2.0).step()
    assert torch.equal(p, torch.ones(3))
    with pytest.raises(HyperparameterError, match="lr must be at least 0"):
        Signed([p], lr=-1)


@pytest.mark.parametrize("base", [Optimizer, torch.optim.Optimizer])
def test_gradscaler_unscales_for_a_step_of_ones_own(base):
    class Own(base):
        def __init__(self, params, lr=0.5):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.data = p.data - self.param_groups[0]["lr"] * p.grad

    p = nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(p.sum()).backward()
    scaler.step(Own([p]))
    assert torch.equal(p.data, torch.full((3,), 0.5))


def test_clip_norm_is_checked_whenever_it_is_set():
    optimizer = Lion(parameters(), clip_norm=1.0)
    with pytest.raises(HyperparameterError, match="a number above 0, not -1"):
        optimizer.clip_norm = -1
    assert optimizer.clip_norm == 1.0
    optimizer.clip_norm = None
    assert optimizer.clip_norm is None


def taken(p, g, *, lr=1e-3, maximize=1.0):
    return p - lr * maximize * g


def test_a_hyperparameter_may_not_take_the_name_of_an_option():
    with pytest.raises(FormulaError, match="may not be called 'maximize'"):
        type("Taken", (Optimizer,), {}, formula=taken)


def test_a_class_without_a_formula_and_without_a_step_says_so():
    optimizer = Optimizer(parameters(), {})
    with pytest.raises(NotImplementedError, match="Optimizer has no formula and no own step"):
        optimizer.step()

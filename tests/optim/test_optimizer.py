"""Our optimizers behave as torch's do: groups, hooks, closures, copies, GradScaler, schedulers."""

import copy
import inspect
import io
import math
import pickle
import pydoc

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from steepest import optim
from steepest.optim.around import AROUND

NAMES = [
    "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "RAdam", "Rprop",
]  # fmt: skip
DECAY = {name: {} if name == "Rprop" else {"weight_decay": 0.1} for name in NAMES}
BOTH = [pytest.param(optim, id="steepest"), pytest.param(torch.optim, id="torch")]


def parameters(*shapes, dtype=torch.float32):
    """Parameters with gradients, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    made = [
        nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes or [(3, 4)]
    ]
    for p in made:
        p.grad = torch.randn(p.shape, dtype=dtype, generator=generator)
    return made


def both(name, *shapes, dtype=torch.float32, **options):
    """Ours and torch's optimizer of one name, with parameters of their own."""
    result = []
    for module in (optim, torch.optim):
        params = parameters(*shapes, dtype=dtype)
        result.append((getattr(module, name)(params, **copy.deepcopy(options)), params))
    return result


def assert_same(sides, close):
    (ours, params), (theirs, expected) = sides
    for p, q in zip(params, expected, strict=True):
        close(p.detach(), q.detach())
        there = {k: v for k, v in theirs.state[q].items() if v is not None}
        assert ours.state[p].keys() == there.keys()
        for key, value in there.items():
            close(ours.state[p][key], value)


# ---- signature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_and_ours_behind(name):
    ours = dict(inspect.signature(getattr(optim, name)).parameters)
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert [*ours][: len(theirs)] == [*theirs]
    assert {*ours} - {*theirs} == {*AROUND, *({"fused"} - {*theirs})}
    for word, known in theirs.items():
        assert (ours[word].default, ours[word].kind) == (known.default, known.kind), word


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_signature_and_first_sentence(name):
    text = pydoc.render_doc(getattr(optim, name), renderer=pydoc.plaintext)
    assert f"{name}(params, lr=" in text
    assert "clip_norm=None" in text
    assert getattr(optim, name).__doc__.splitlines()[0] in text


@pytest.mark.parametrize("name", NAMES)
def test_arguments_by_position_as_torch_takes_them(name):
    known = inspect.signature(getattr(torch.optim, name)).parameters.values()
    values = [p.default for p in known if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    values[0] = 0.25
    ours = getattr(optim, name)(parameters(), *values).param_groups[0]
    theirs = getattr(torch.optim, name)(parameters(), *values).param_groups[0]
    assert {k: ours[k] for k in theirs if k != "params"} == {
        k: v for k, v in theirs.items() if k != "params"
    }


@pytest.mark.parametrize("name", NAMES)
def test_repr_and_defaults_have_torchs_keys(name):
    (ours, _), (theirs, _) = both(name)
    assert ours.defaults == theirs.defaults
    assert repr(ours).replace("0.0\n", "0\n") == repr(theirs).replace("0.0\n", "0\n")


# ---- parameters and groups ----------------------------------------------------------------------

REFUSED = {
    "an empty list": (list, ValueError),
    "an empty generator": (lambda: iter(()), ValueError),
    "a tensor": (lambda: parameters()[0], TypeError),
    "a group with a set": (lambda: [{"params": set(parameters())}], TypeError),
    "a number": (lambda: [1.0], TypeError),
    "a non-leaf": (lambda: [parameters()[0] * 2], ValueError),
    "one name missing": (lambda: [("w", parameters()[0]), parameters()[0]], ValueError),
    "one parameter in two groups": (
        lambda: [{"params": group} for group in [parameters()] * 2],
        ValueError,
    ),
    "groups with and without names": (
        lambda: [{"params": [("w", parameters()[0])]}, {"params": parameters()}],
        ValueError,
    ),
}


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("case", REFUSED)
def test_parameters_refused(case, module):
    make, error = REFUSED[case]
    with pytest.raises(error):
        module.Adam(make())


@pytest.mark.parametrize("module", BOTH)
def test_duplicate_parameters_warn(module):
    with pytest.warns(UserWarning, match="duplicate parameters"):
        module.SGD(parameters() * 2, lr=0.1)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_duplicate_parameters_move_twice_as_in_torch(name, close):
    sides = []
    for module in (optim, torch.optim):
        (p,) = parameters()
        with pytest.warns(UserWarning, match="duplicate"):
            sides.append((getattr(module, name)([p, p], lr=0.1), [p]))
    for _ in range(3):
        for optimizer, _ in sides:
            optimizer.step()
    assert_same(sides, close)


@pytest.mark.parametrize("take", [iter, tuple, lambda ps: (p for p in ps)])
def test_any_iterable_of_parameters(take, close):
    sides = both("Adam", (2,), (3,))
    sides[0] = (optim.Adam(take(sides[0][1])), sides[0][1])
    for optimizer, _ in sides:
        optimizer.step()
    assert_same(sides, close)


def test_tied_parameters_are_one(close):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    first = Tied()
    models = [first, copy.deepcopy(first)]
    sides = [(optim.Adam(models[0].parameters()), [*models[0].parameters()])]
    sides.append((torch.optim.Adam(models[1].parameters()), [*models[1].parameters()]))
    for _ in range(5):
        for model, (optimizer, _) in zip(models, sides, strict=True):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    assert_same(sides, close)


@pytest.mark.parametrize("name", NAMES)
def test_groups_with_their_own_options(name, close):
    def groups(params):
        return [
            {"params": params[:1], "lr": 0.03, "maximize": True},
            {"params": params[1:3], "weight_decay": 0.1},
            {"params": params[3], "eps": 1e-3} if name != "SGD" else {"params": params[3]},
        ]

    shapes = [(3,), (4, 2), (), (5,)]
    sides = []
    for module in (optim, torch.optim):
        params = parameters(*shapes)
        optimizer = getattr(module, name)(groups(params), lr=0.01)
        sides.append((optimizer, params))
    for _ in range(20):
        for optimizer, _ in sides:
            optimizer.step()
    assert_same(sides, close)


@pytest.mark.parametrize("name", NAMES)
def test_add_param_group_between_steps(name, close):
    sides = both(name, (3,), (4, 2))
    for _ in range(3):
        for k, (optimizer, params) in enumerate(sides):
            optimizer.step()
            more = parameters((2, 2))
            optimizer.add_param_group({"params": more[0], "lr": 0.5})
            if name == "Adagrad" and k == 1:  # torch's own forgets the state of a later group
                zero = torch.zeros_like(more[0])
                optimizer.state[more[0]] = {"step": torch.tensor(0.0), "sum": zero}
            sides[k] = (optimizer, [*params, *more])
    for _ in range(3):
        for optimizer, _ in sides:
            optimizer.step()
    assert_same(sides, close)


def test_named_parameters_keep_their_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = optim.Adam(model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_needs_no_grad_is_passed_over(name, close):
    sides = both(name, (3,), (4,), lr=0.1)
    for optimizer, params in sides:
        params[1].requires_grad_(False)
        params[1].grad = None
        optimizer.step()
    assert torch.equal(sides[0][1][1], sides[1][1][1])
    close(sides[0][1][0].detach(), sides[1][1][0].detach())
    assert name == "Adagrad" or sides[0][1][1] not in sides[1][0].state


@pytest.mark.parametrize("module", BOTH)
def test_a_parameter_that_needs_no_grad_but_has_one_is_updated(module):
    (p,) = parameters()
    p.requires_grad_(False)
    before = p.clone()
    module.SGD([p], lr=0.1).step()
    assert not torch.equal(p, before)


# ---- the step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_come_and_go_count_each_parameters_steps(name, close):
    """Parameter i has a gradient at steps divisible by i + 1."""
    sides = both(name, (3,), (4, 2), (), (5,))
    if name == "SGD":
        sides = both(name, (3,), (4, 2), (), (5,), momentum=0.9, dampening=0.1)
    for k in range(12):
        for optimizer, params in sides:
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, k + 1.0) if k % (i + 1) == 0 else None
            optimizer.step()
    assert_same(sides, close)
    if name != "SGD":
        assert [float(sides[0][0].state[p]["step"]) for p in sides[0][1]] == [12, 6, 4, 3]


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_at_all_changes_nothing(name):
    optimizer = getattr(optim, name)(parameters((2,), (3,)))
    optimizer.zero_grad()
    before = [p.clone() for p in optimizer.param_groups[0]["params"]]
    optimizer.step()
    for p, old in zip(optimizer.param_groups[0]["params"], before, strict=True):
        assert torch.equal(p, old)


@pytest.mark.parametrize("fused", [None, False])
def test_closure_runs_with_grad_and_its_loss_returns(fused):
    (p,) = parameters()
    optimizer = optim.SGD([p], lr=0.1, fused=fused)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        seen.append(torch.is_grad_enabled())
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert seen == [True]
    assert loss.requires_grad
    assert optimizer.step(closure=closure) < loss
    assert optimizer.step() is None


@pytest.mark.parametrize("module", BOTH)
def test_zero_grad(module):
    params = parameters((2,), (3,))
    optimizer = module.SGD(params, lr=0.1)
    kept = params[0].grad
    params[1].grad = None
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is kept
    assert not kept.any()
    assert params[1].grad is None
    optimizer.zero_grad()
    assert params[0].grad is None


def test_zero_grad_to_zero_detaches_a_gradient_with_a_graph():
    (p,) = parameters()
    p.grad = (p * 2).clone()
    assert p.grad.requires_grad
    optim.SGD([p], lr=0.1).zero_grad(set_to_none=False)
    assert not p.grad.requires_grad


LRS = {
    "int": 1,
    "zero": 0,
    "numpy float64": np.float64(0.1),
    "numpy float32": np.float32(0.1),
    "bool": True,
    "tensor": torch.tensor(0.1),
    "float64 tensor": torch.tensor(0.1, dtype=torch.float64),
    "tensor of one element": torch.tensor([0.1]),
}


@pytest.mark.parametrize("lr", LRS)
@pytest.mark.parametrize("name", NAMES)
def test_lr_of_any_kind_of_number(name, lr, close):
    sides = both(name, (3,), (4, 2), **DECAY[name], lr=LRS[lr])
    for k in range(10):
        for optimizer, _ in sides:
            optimizer.step()
            if isinstance(LRS[lr], torch.Tensor):
                optimizer.param_groups[0]["lr"].fill_(0.1 / (k + 1))
    assert_same(sides, close)


@pytest.mark.parametrize("fused", [None, False])
def test_tensors_among_the_hyperparameters_count_as_numbers(fused, close):
    betas = (torch.tensor(0.8), torch.tensor([0.95]))
    sides = both("AdamW", (3,), (), betas=betas, lr=torch.tensor([0.1]))
    sides[0][0].param_groups[0]["fused"] = fused
    for _ in range(10):
        for optimizer, _ in sides:
            optimizer.step()
    assert_same(sides, close)


def test_a_hyperparameter_changed_between_steps_takes_effect(close):
    sides = both("RMSprop", (3,), (4,), lr=0.1)
    changes = [{}, {"lr": 0.2}, {"alpha": 0.5}, {"weight_decay": 0.1}, {"maximize": True}]
    for change in changes:
        for optimizer, _ in sides:
            optimizer.param_groups[0].update(change)
            optimizer.step()
    assert_same(sides, close)


@pytest.mark.parametrize("name", NAMES)
def test_state_reads_like_a_dict_of_tensors_at_any_moment(name, close):
    sides = both(name, (3,), (4, 2))
    for _ in range(3):
        for optimizer, _ in sides:
            optimizer.step()
        (ours, params), (theirs, expected) = sides
        assert len(ours.state) == len(theirs.state)
        for p, q in zip(params, expected, strict=True):
            assert isinstance(ours.state.get(p, {}), dict)
            for key, value in theirs.state.get(q, {}).items():
                close(ours.state[p][key], value)


# ---- execution options --------------------------------------------------------------------------


def test_fused_true_insists_on_a_kernel(close):
    sides = both("Adam", (3,), (4, 2), fused=True)
    for optimizer, _ in sides:
        optimizer.step()
    assert_same(sides, close)
    for dtype in (torch.bfloat16, torch.complex64):
        with pytest.raises(ValueError, match=r"fused=True.*no kernel can serve.*fused=None"):
            optim.Adam(parameters(dtype=dtype), fused=True).step()


def test_foreach_is_accepted():
    (ours, _), _ = both("Adam", foreach=True)
    ours.step()
    assert ours.param_groups[0]["foreach"] is True


CONFLICTS = [
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
    {"capturable": True},
]


@pytest.mark.parametrize("options", CONFLICTS, ids=str)
def test_options_that_cannot_be_honoured_raise(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        optim.Adam(parameters(), **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        optim.Adam([{"params": parameters(), **options}])


@pytest.mark.parametrize("name", sorted({*NAMES} - {"Adamax", "Rprop"}))  # torch's fail at step 2
def test_differentiable_passes_gradients_through_steps(name, close):
    """A loss after three steps, by the gradient, the parameter and the learning rate."""
    found = []
    for module in (optim, torch.optim):
        start = torch.linspace(-1, 2, 6, dtype=torch.float64).requires_grad_()
        grad = torch.linspace(1, 3, 6, dtype=torch.float64).requires_grad_()
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=name in ("SGD", "Adam", "AdamW"))
        p = start.clone()
        optimizer = getattr(module, name)([p], lr=lr, **DECAY[name], differentiable=True)
        for k in range(3):
            p.grad = grad * (k + 1) + 0.1 * p if k else grad.clone()
            optimizer.step()
        loss = (p**2).sum()
        assert loss.requires_grad
        wanted = [start, grad, *([lr] if lr.requires_grad else [])]
        found.append(torch.autograd.grad(loss, wanted))
    for ours, theirs in zip(*found, strict=True):
        if "Adam" in name:  # torch corrects the bias in float32 here
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
        else:
            close(ours, theirs)


def test_classic_subclass_of_torchs_optimizer_is_unaffected():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad

    ours, theirs = parameters(), parameters()
    Plain(ours, 0.5).step()
    torch.optim.SGD(theirs, lr=0.5).step()
    assert torch.equal(ours[0], theirs[0])


# ---- hooks, profiler, copies --------------------------------------------------------------------


HOOKS = {
    "pre": lambda o: o.register_step_pre_hook,
    "post": lambda o: o.register_step_post_hook,
    "global pre": lambda o: register_optimizer_step_pre_hook,
    "global post": lambda o: register_optimizer_step_post_hook,
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_step_hook_sees_what_torchs_hook_sees(kind):
    def watch(optimizer):
        seen = []
        handle = HOOKS[kind](optimizer)(lambda o, a, k: seen.append((o is optimizer, len(a), k)))
        optimizer.step()
        optimizer.step(lambda: 1.0)
        handle.remove()
        optimizer.step()
        return seen

    (ours, _), (theirs, _) = both("Adam")
    assert watch(ours) == watch(theirs) == [(True, 1, {}), (True, 2, {})]


def test_hooks_run_in_torchs_order():
    def watch(optimizer):
        seen = []
        handles = [
            HOOKS[kind](optimizer)(lambda *_, kind=kind: seen.append(kind)) for kind in HOOKS
        ]
        optimizer.step()
        for handle in handles:
            handle.remove()
        return seen

    (ours, _), (theirs, _) = both("Adam")
    assert watch(ours) == watch(theirs) == ["global pre", "pre", "post", "global post"]


def test_a_pre_hook_may_exchange_the_closure():
    optimizer = optim.SGD(parameters(), lr=0.1)
    handle = optimizer.register_step_pre_hook(lambda o, a, k: ((o, lambda: 7.0), {}))
    assert optimizer.step() == 7.0
    handle.remove()
    assert optimizer.step() is None


def test_state_dict_hooks_run_as_torchs_do():
    (ours, _), (theirs, _) = both("Adam")
    seen = {}
    for optimizer in (ours, theirs):
        log = seen[optimizer] = []
        optimizer.step()
        optimizer.register_state_dict_pre_hook(lambda o, log=log: log.append("saving"))
        optimizer.register_state_dict_post_hook(lambda o, s, log=log: {**s, "mine": 1})
        optimizer.register_load_state_dict_pre_hook(
            lambda o, s, log=log: log.append(s["mine"]) or {**s, "param_groups": _lr(s, 0.75)}
        )
        optimizer.register_load_state_dict_post_hook(lambda o, log=log: log.append("loaded"))
        saved = optimizer.state_dict()
        assert saved["mine"] == 1
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["lr"] == 0.75
    assert seen[ours] == seen[theirs] == ["saving", 1, "loaded"]


def _lr(saved, lr):
    return [{**group, "lr": lr} for group in saved["param_groups"]]


def test_a_post_hook_of_state_dict_may_return_anything():
    optimizer = optim.RMSprop(parameters())
    optimizer.register_state_dict_post_hook(lambda o, s: {"sorted": sorted(s)})
    assert optimizer.state_dict() == {"sorted": ["param_groups", "state"]}


def test_profiler_record():
    optimizer = optim.Adam(parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"} <= names


def through_torch_save(optimizer):
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", NAMES)
def test_copies_continue_alike_and_apart(name, how):
    params = parameters((3,), (4, 2))
    optimizer = getattr(optim, name)(params, clip_norm=0.5)
    optimizer.step()
    twin = COPIES[how](optimizer)
    assert type(twin) is type(optimizer)
    assert twin.clip_norm == 0.5
    copies = twin.param_groups[0]["params"]
    untouched = [p.detach().clone() for p in params]
    for p, q in zip(params, copies, strict=True):
        q.grad = p.grad.clone()
    twin.step()
    for p, old in zip(params, untouched, strict=True):
        assert torch.equal(p, old)
    optimizer.step()
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


# ---- mixed precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("unscale", [False, True], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("fused", [None, False])
def test_grad_scaler(unscale, clip, fused, close):
    """Gradients are scaled, one of them overflows: torch's scaler skips that step for both."""
    sides = [
        (optim.Adam(parameters((3,), (4,)), fused=fused, clip_norm=clip), None),
        (torch.optim.Adam(parameters((3,), (4,))), None),
    ]
    sides = [(optimizer, optimizer.param_groups[0]["params"]) for optimizer, _ in sides]
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3) for _ in sides]
    for k in range(8):
        for (optimizer, params), scaler in zip(sides, scalers, strict=True):
            optimizer.zero_grad()
            scaler.scale(sum((p * (i + k)).sum() for i, p in enumerate(params))).backward()
            if k == 4:
                params[0].grad[1] = math.inf
            if unscale or optimizer is sides[1][0]:
                scaler.unscale_(optimizer)
            if clip and optimizer is sides[1][0]:
                norm = nn.utils.clip_grad_norm_(params, clip)
            scaler.step(optimizer)
            scaler.update()
        if clip and k != 4:
            close(sides[0][0].grad_norm, norm)
    assert_same(sides, close)
    assert scalers[0].get_scale() == scalers[1].get_scale() != 1024.0
    assert float(sides[0][0].state[sides[0][1][0]]["step"]) == 7
    assert not hasattr(sides[0][0], "found_inf")


@pytest.mark.parametrize("fused", [None, False])
def test_grad_scale_set_by_hand(fused, close):
    """torch's fused optimizers read `grad_scale` and `found_inf` wherever they come from."""
    sides = both("Adam", (3,), fused=True)
    sides[0][0].param_groups[0]["fused"] = fused
    for optimizer, (p,) in sides:
        grad = p.grad.clone()
        for scale, found in [(4.0, None), (4.0, 1.0), (None, None), (4.0, 0.0)]:
            optimizer.grad_scale = None if scale is None else torch.tensor(scale)
            optimizer.found_inf = None if found is None else torch.tensor(found)
            optimizer.step()
            p.grad = grad.clone()  # torch's kernel has scaled it in place, ours has not
    assert_same(sides, close)


# ---- schedulers ---------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "PolynomialLR": lr_scheduler.PolynomialLR,
}


def test_every_scheduler_of_torch_has_a_row():
    known = set(lr_scheduler.__all__) - {"LRScheduler"}
    assert known == set(SCHEDULERS)


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_torchs_schedulers_drive_ours(scheduler, name, tensor_lr, close):
    options = {"momentum": 0.9} if name == "SGD" else {}
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    sides = both(name, (3,), (4, 2), lr=lr, **options)
    schedules = [SCHEDULERS[scheduler](optimizer) for optimizer, _ in sides]
    for _ in range(10):
        for (optimizer, _), schedule in zip(sides, schedules, strict=True):
            optimizer.step()
            schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
    assert_same(sides, close)
    assert float(sides[0][0].param_groups[0]["lr"]) == float(sides[1][0].param_groups[0]["lr"])


def test_adagrad_has_its_state_before_the_first_step_as_torchs_has():
    params = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    options = {"initial_accumulator_value": 0.25}
    ours, theirs = optim.Adagrad(params, **options), torch.optim.Adagrad(params, **options)
    mine, expected = ours.state_dict(), theirs.state_dict()
    assert mine["param_groups"] == expected["param_groups"]
    for key, entry in expected["state"].items():
        assert entry.keys() == mine["state"][key].keys()
        for name, value in entry.items():
            assert torch.equal(mine["state"][key][name], value)
            assert mine["state"][key][name].dtype == value.dtype


def test_adagrad_shares_its_sums():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = optim.Adagrad([p])
    optimizer.step()
    optimizer.share_memory()
    optimizer.step()
    assert optimizer.state[p]["sum"].is_shared()
    assert torch.equal(optimizer.state[p]["sum"], torch.full((3,), 2.0))

"""Loading a state_dict: matched by name, refused before anything changes, torch's old layouts."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from steepest import optim
from steepest.errors import StateError

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "ASGD"]
OPTIONS = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True}}


def parameters(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return made


def trained(name="Adam", params=None, steps=3, module=optim, **options):
    params = parameters((3,), (4, 2)) if params is None else params
    optimizer = getattr(module, name)(params, **{**OPTIONS.get(name, {}), **options})
    for _ in range(steps):
        optimizer.step()
    return optimizer


def image(optimizer):
    """Everything of an optimizer that a failed load might touch, copied."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy(
        [
            [p.detach() for p in params],
            [dict(optimizer.state.get(p, {})) for p in params],
            [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        ]
    )


def same(a, b):
    """Tell whether two nested values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype is b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ---- refusals -----------------------------------------------------------------------------------


def changed(**changes):
    """Return a way to spoil a state_dict: `state__0__step=...` sets one entry, None deletes it."""

    def spoil(saved):
        for path, value in changes.items():
            *way, last = (int(part) if part.isdigit() else part for part in path.split("__"))
            place = saved
            for part in way:
                place = place[part]
            if value is None:
                del place[last]
            else:
                place[last] = value
        return saved

    return spoil


def other(name, **options):
    """The state_dict of another optimizer over the same parameters."""
    return lambda saved: trained(name, **options).state_dict()


def over(*shapes):
    return lambda saved: trained(params=parameters(*shapes)).state_dict()


REFUSED = {
    "not a dict": (lambda saved: [saved], "is a dict, not a list"),
    "nothing": (lambda saved: None, "is a dict, not a NoneType"),
    "an empty dict": (lambda saved: {}, "this has nothing"),
    "a model's": (lambda saved: {"weight": torch.zeros(1)}, "this has weight"),
    "no state": (changed(state=None), "this has param_groups"),
    "no groups": (changed(param_groups=None), "this has state"),
    "groups without params": (changed(param_groups__0__params=None), "dicts with 'params'"),
    "a group too many": (lambda s: {**s, "param_groups": s["param_groups"] * 2}, "2 param groups"),
    "no group": (lambda s: {**s, "param_groups": []}, "0 param groups"),
    "a parameter less": (over((3,)), "has 1 parameters, the optimizer's has 2"),
    "a parameter more": (over((3,), (4, 2), (1,)), "has 3 parameters, the optimizer's has 2"),
    "other shapes": (over((4, 2), (3,)), r"'exp_avg' must have shape \(3,\), found \(4, 2\)"),
    "one other shape": (over((3,), (2, 4)), r"1 of group 0: 'exp_avg' must have shape \(4, 2\)"),
    "a state missing": (
        changed(state__1__exp_avg=None),
        "1 of group 0 lacks 'exp_avg'; it has exp_avg_sq",
    ),
    "the step missing": (changed(state__1__step=None), "1 of group 0 lacks 'step'"),
    "a step of two numbers": (changed(state__0__step=torch.ones(2)), "'step' must be a whole"),
    "a step of NaN": (changed(state__0__step=torch.tensor(float("nan"))), "'step' must be a whole"),
    "an infinite step": (changed(state__0__step=float("inf")), "'step' must be a whole number"),
    "a step between two": (changed(state__0__step=2.5), "'step' must be a whole number"),
    "a negative step": (changed(state__0__step=-1), "'step' must be a whole number"),
    "a step that is no number": (changed(state__0__step="3"), "'step' must be a whole number"),
    "a state too many": (changed(state__0__momentum_buffer=torch.ones(3)), "does not know"),
    "a state that is no tensor": (changed(state__0__exp_avg=1.0), "found float"),
    "a complex state": (changed(state__0__exp_avg=torch.ones(3) * 1j), "is complex"),
    "a parameter's state no dict": (changed(state__0=torch.ones(3)), "is a Tensor, not a dict"),
    "a state of no parameter": (changed(state__7={}), "for parameter 7, which is in none"),
    "lr missing": (changed(param_groups__0__lr=None), "has no 'lr'; it was saved by another"),
    "lr out of bounds": (changed(param_groups__0__lr=-1.0), "lr must be at least 0"),
    "SGD's": (other("SGD"), "has no 'betas'; it was saved by another optimizer"),
    "RMSprop's": (other("RMSprop"), "has no 'betas'; it was saved by another optimizer"),
    "Adagrad's": (other("Adagrad"), "has no 'betas'; it was saved by another optimizer"),
    "Adadelta's": (other("Adadelta"), "has no 'betas'; it was saved by another optimizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_and_nothing_has_changed(case):
    spoil, words = REFUSED[case]
    optimizer = trained(amsgrad=False, lr=0.5)
    optimizer.register_load_state_dict_post_hook(lambda _: pytest.fail("loaded"))
    before, tensors = image(optimizer), [*optimizer.state.values()]
    given = spoil(copy.deepcopy(trained(params=parameters((3,), (4, 2), seed=1)).state_dict()))
    with pytest.raises(ValueError, match=words) as error:
        optimizer.load_state_dict(given)
    assert str(error.value).startswith("Adam: ")
    assert "\n" not in str(error.value)
    assert same(before, image(optimizer))
    assert all(a is b for a, b in zip(tensors, optimizer.state.values(), strict=True))
    twin = trained(lr=0.5)
    optimizer.step()
    twin.step()
    assert same(image(optimizer)[:2], image(twin)[:2])


@pytest.mark.parametrize("saver", NAMES)
@pytest.mark.parametrize("loader", NAMES)
def test_another_optimizers_state_is_refused(loader, saver):
    saved = trained(saver, module=torch.optim).state_dict()
    optimizer = trained(loader)
    if loader == saver or (loader, saver) == ("Adam", "AdamW"):  # Adam with decoupled decay
        optimizer.load_state_dict(saved)
        optimizer.step()
    else:
        with pytest.raises(StateError):
            optimizer.load_state_dict(saved)


# ---- names --------------------------------------------------------------------------------------


def named(*names, size=3):
    made = parameters(*[(size,)] * len(names))
    return list(zip(names, made, strict=True))


def test_reordered_parameters_find_their_state_by_name():
    first = named("a", "b", "c")
    saver = trained(params=first)
    second = [(name, nn.Parameter(p.detach().clone())) for name, p in first]
    for (_, p), (_, q) in zip(first, second, strict=True):
        q.grad = p.grad.clone()
    loader = optim.Adam([second[2], second[0], second[1]])
    loader.load_state_dict(saver.state_dict())
    assert loader.param_groups[0]["param_names"] == ["c", "a", "b"]
    saver.step()
    loader.step()
    for (_, p), (_, q) in zip(first, second, strict=True):
        assert torch.equal(p, q)
        assert same(dict(saver.state[p]), dict(loader.state[q]))


@pytest.mark.parametrize("names", [["a", "x"], ["x", "y"]])
def test_a_renamed_parameter_is_refused(names):
    optimizer = trained(params=named(*names))
    before = image(optimizer)
    with pytest.raises(StateError, match=r"no parameter '.' .*'param_names'"):
        optimizer.load_state_dict(trained(params=named("a", "b")).state_dict())
    assert same(before, image(optimizer))


def test_names_on_one_side_alone_match_by_position():
    saved = trained(params=parameters((3,), (3,))).state_dict()
    optimizer = optim.Adam(named("a", "b"))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["param_names"] == ["a", "b"]
    optimizer = optim.Adam(parameters((3,), (3,)))
    optimizer.load_state_dict(trained(params=named("a", "b")).state_dict())
    assert len(optimizer.state) == 2


def test_names_are_kept_within_their_groups():
    first = named("a", "b", "c")
    groups = [{"params": first[:1], "lr": 0.1}, {"params": first[1:], "lr": 0.2}]
    saved = trained(params=groups).state_dict()
    optimizer = optim.Adam([{"params": first[2:0:-1]}, {"params": first[:1]}])
    with pytest.raises(StateError, match="param group 0"):
        optimizer.load_state_dict(saved)
    optimizer = optim.Adam([{"params": first[:1]}, {"params": first[2:0:-1]}])
    optimizer.load_state_dict(saved)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


# ---- what loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_load_then_step_continues_exactly(name):
    saver = trained(name)
    params = saver.param_groups[0]["params"]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    loader = getattr(optim, name)(twins, lr=0.7)
    loader.step()
    loader.load_state_dict(saver.state_dict())
    for _ in range(3):
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone()
        saver.step()
        loader.step()
    assert same(image(saver), image(loader))


@pytest.mark.parametrize("name", NAMES)
def test_two_optimizers_never_share_a_tensor(name):
    saver = trained(name, lr=torch.tensor(0.1))
    loader = getattr(optim, name)(saver.param_groups[0]["params"])
    loader.load_state_dict(saver.state_dict())
    there = {t.data_ptr() for state in saver.state.values() for t in state.values()}
    here = {t.data_ptr() for state in loader.state.values() for t in state.values()}
    assert here
    assert not there & here
    assert loader.param_groups[0]["lr"] is not saver.param_groups[0]["lr"]


OLD = {
    "step as an int": changed(state__0__step=3, state__1__step=3),
    "step as a float64 tensor": changed(state__0__step=torch.tensor(3.0, dtype=torch.float64)),
    "step of shape (1,)": changed(state__0__step=torch.tensor([3.0])),
    "no newer flags": lambda saved: {
        **saved,
        "param_groups": [
            {k: v for k, v in group.items() if k in ("params", *TORCH_1_0)}
            for group in saved["param_groups"]
        ],
    },
}
TORCH_1_0 = ["lr", "betas", "eps", "weight_decay"]


@pytest.mark.parametrize("case", OLD)
def test_torchs_older_layouts(case, close):
    saver = trained(module=torch.optim)
    params = saver.param_groups[0]["params"]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    loader = optim.Adam(twins)
    loader.load_state_dict(OLD[case](copy.deepcopy(saver.state_dict())))
    for p, q in zip(params, twins, strict=True):
        q.grad = p.grad.clone()
    saver.step()
    loader.step()
    for p, q in zip(params, twins, strict=True):
        close(q.detach(), p.detach())
        assert loader.state[q]["step"].dtype is torch.float32
        assert float(loader.state[q]["step"]) == 4
    assert loader.param_groups[0]["amsgrad"] is False


def test_momentum_buffer_none_is_a_first_step_to_come(close):
    saved = trained("SGD", module=torch.optim).state_dict()
    saved["state"][0]["momentum_buffer"] = None
    sides = []
    for module in (optim, torch.optim):
        params = parameters((3,), (4, 2))
        optimizer = module.SGD(params, lr=0.1)
        optimizer.load_state_dict(copy.deepcopy(saved))
        optimizer.step()
        optimizer.step()
        sides.append(params)
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())


@pytest.mark.parametrize("name", NAMES)
def test_state_of_some_parameters_alone(name, close):
    """The second parameter had no gradient when the state was saved."""
    sides = []
    for module in (optim, torch.optim):
        params = parameters((3,), (4, 2))
        grad, params[1].grad = params[1].grad, None
        saved = trained(name, params, module=torch.optim).state_dict()
        optimizer = getattr(module, name)(params, lr=0.5)
        optimizer.load_state_dict(saved)
        params[1].grad = grad
        optimizer.step()
        optimizer.step()
        sides.append((optimizer, params))
    for p, q in zip(sides[0][1], sides[1][1], strict=True):
        close(p.detach(), q.detach())
        for key, value in sides[1][0].state[q].items():
            close(sides[0][0].state[p][key].to(value.dtype), value)  # our numbers are float64


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("since", [torch.float32, torch.bfloat16], ids=str)
def test_state_takes_the_parameters_dtype_as_in_torch(since, to):
    saved = trained(params=parameters((3,), (4, 2), dtype=since)).state_dict()
    loaded = []
    for module in (optim, torch.optim):
        params = parameters((3,), (4, 2), dtype=to)
        optimizer = module.Adam(params)
        optimizer.load_state_dict(copy.deepcopy(saved))
        loaded.append([dict(optimizer.state[p]) for p in params])
        optimizer.step()
    for ours, theirs in zip(*loaded, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[k].dtype is theirs[k].dtype for k in ours)
        assert [ours[k].dtype for k in ours] == [torch.float32, to, to]


def test_a_users_own_keys_survive():
    groups = [{"params": parameters((3,)), "name": "head", "initial_lr": 0.3, "tags": [1, 2]}]
    optimizer = trained(params=groups)
    optimizer.state["epoch"] = {"seen": 7}
    loader = optim.Adam(parameters((3,)))
    loader.load_state_dict(optimizer.state_dict())
    group = loader.param_groups[0]
    assert (group["name"], group["initial_lr"], group["tags"]) == ("head", 0.3, [1, 2])
    assert loader.state["epoch"] == {"seen": 7}
    loader.step()


def test_loading_into_an_optimizer_does_not_change_what_was_given():
    saved = trained().state_dict()
    before = copy.deepcopy(saved)
    trained("Adam", lr=0.5).load_state_dict(saved)
    assert same(saved, before)


def test_state_dict_holds_plain_dicts_of_its_own():
    optimizer = trained()
    saved = optimizer.state_dict()
    assert all(type(entry) is dict for entry in saved["state"].values())
    saved["state"][0].clear()
    saved["param_groups"][0]["lr"] = 7.0
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_exactly_torchs(name):
    ours, theirs = (trained(name, module=module).state_dict() for module in (optim, torch.optim))
    assert ours.keys() == theirs.keys()
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys()
    for key, entry in theirs["state"].items():
        assert ours["state"][key].keys() == entry.keys()


def test_an_option_that_torchs_class_has_not_is_saved_where_it_was_given():
    saved = trained("RMSprop", fused=False).state_dict()
    assert saved["param_groups"][0]["fused"] is False
    torch.optim.RMSprop(parameters((3,), (4, 2))).load_state_dict(saved)


@pytest.mark.parametrize("option", ["foreach", "capturable", "differentiable", "fused"])
def test_how_to_run_is_not_loaded(option):
    saved = trained().state_dict()
    saved["param_groups"][0][option] = True
    saved["param_groups"][0]["maximize"] = True
    optimizer = trained(fused=False)
    before = optimizer.param_groups[0][option]
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.param_groups[0][option] is before
    assert optimizer.param_groups[0]["maximize"] is True


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("name", NAMES)
def test_distributed_state_dict_functions(name, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    models = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        getattr(optim, name)(m.parameters(), **{"lr": 0.1, **OPTIONS.get(name, {})}) for m in models
    ]

    def step(k):
        optimizers[k].zero_grad()
        models[k](torch.ones(2, 3)).square().sum().backward()
        optimizers[k].step()

    step(0)
    step(0)
    saved = get_optimizer_state_dict(models[0], optimizers[0], options=options)
    models[1].load_state_dict(models[0].state_dict())
    set_optimizer_state_dict(models[1], optimizers[1], saved, options=options)
    step(0)
    step(1)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
        assert same(dict(optimizers[0].state[p]), dict(optimizers[1].state[q]))

"""Param groups by name: who is in which, what is refused, and that optimizers take them."""

import copy
import re
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError
from steepest.optim import groups
from steepest.schedules import cosine


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(2)
        self.linear = nn.Linear(2, 2)


class Net(nn.Module):
    """What a transformer's names look like: before the blocks, three blocks, after them."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 2))
        self.embed = nn.Embedding(3, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 3)


def freeze(model, *parts):
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
    return model


def tied():
    model = Net()
    model.head.weight = model.embed.weight
    return model


def told(result):
    """Return (names, options) of each group."""
    rest = [{k: v for k, v in group.items() if k != "params"} for group in result]
    names = [" ".join(name for name, _ in group["params"]) for group in result]
    return list(zip(names, rest, strict=True))


def names_of(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def by_name(result, key):
    return {name: group[key] for group in result for name, _ in group["params"]}


SMALL = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), norm=nn.LayerNorm(2), b=nn.Linear(2, 2)))
DEPTHS = {"a.weight": 0, "norm.weight": 1}
NAMES = "a.weight a.bias norm.weight norm.bias b.weight b.bias"

# patterns and options over SMALL, then its groups: names and hyperparameters
ROWS = [
    ({}, {}, [(NAMES, {})]),
    ({"*": {"lr": 1.0}}, {}, [(NAMES, {"lr": 1.0})]),
    ({"*": {}}, {}, [(NAMES, {})]),
    (
        {"*.bias|*norm*": {"weight_decay": 0}},
        {},
        [("a.bias norm.weight norm.bias b.bias", {"weight_decay": 0}), ("a.weight b.weight", {})],
    ),
    (
        {" *norm* | b.bias ": {"lr": 2}, "?.bias": {"lr": 3}},
        {},
        [
            ("norm.weight norm.bias b.bias", {"lr": 2}),
            ("a.bias", {"lr": 3}),
            ("a.weight b.weight", {}),
        ],
    ),
    (  # the first match wins, and a pattern without hyperparameters leaves its own to the rest
        {"a.*": {}, "*.bias": {"lr": 2}},
        {},
        [("norm.bias b.bias", {"lr": 2}), ("a.weight a.bias norm.weight b.weight", {})],
    ),
    (  # equal hyperparameters share a group
        {"b.*": {"lr": 2, "eps": 1}, "norm.*": {"lr": 3}, "a.*": {"eps": 1.0, "lr": 2}},
        {},
        [
            ("b.weight b.bias a.weight a.bias", {"lr": 2, "eps": 1}),
            ("norm.weight norm.bias", {"lr": 3}),
        ],
    ),
    (  # other keys are carried unchanged
        {"*.weight": {"optimizer": optim.SGD, "tag": ["x"]}, "*": {"optimizer": optim.AdamW}},
        {},
        [
            ("a.weight norm.weight b.weight", {"optimizer": optim.SGD, "tag": ["x"]}),
            ("a.bias norm.bias b.bias", {"optimizer": optim.AdamW}),
        ],
    ),
    (
        {},
        {"no_decay": True},
        [("a.bias norm.weight norm.bias b.bias", {"weight_decay": 0}), ("a.weight b.weight", {})],
    ),
    (
        {"b.*": {"lr": 2}, "norm.weight": {"weight_decay": 0.5}},
        {"no_decay": True},
        [
            ("b.weight", {"lr": 2}),
            ("b.bias", {"lr": 2, "weight_decay": 0}),
            ("norm.weight", {"weight_decay": 0.5}),
            ("a.bias norm.bias", {"weight_decay": 0}),
            ("a.weight", {}),
        ],
    ),
    (
        {"b.weight": {"lr": 8.0}},
        {"layer_decay": 0.5, "lr": 1.0, "depth": lambda name: DEPTHS.get(name, 2)},
        [
            ("b.weight", {"lr": 8.0}),
            ("a.weight", {"lr": 0.25}),
            ("a.bias norm.bias b.bias", {"lr": 1.0}),
            ("norm.weight", {"lr": 0.5}),
        ],
    ),
]


@pytest.mark.parametrize(("patterns", "options", "expected"), ROWS)
def test_who_is_in_which_group(patterns, options, expected):
    before = copy.deepcopy(patterns)
    assert told(groups(SMALL, patterns, **options)) == expected
    assert told(groups(iter(SMALL.named_parameters()), patterns, **options)) == expected
    assert patterns == before


parts = st.sampled_from(["*", "*norm*", "*.bias", "blocks.*", "*.0.*|head*", "[a-e]*", "embed?*"])


@given(
    st.dictionaries(parts, st.fixed_dictionaries({"lr": st.integers(1, 3)}), max_size=4),
    st.booleans(),
    st.sampled_from([None, 0.5, 1.0]),
    st.sampled_from([(), ("embed",), ("blocks.1", "norm")]),
    st.booleans(),
)
def test_each_trainable_parameter_is_in_one_group_and_no_two_groups_are_alike(
    patterns, no_decay, layer_decay, frozen, shared
):
    model = freeze(tied() if shared else Net(), *frozen)
    more = {} if layer_decay is None else {"layer_decay": layer_decay, "lr": 1.0}
    try:
        result = groups(model, patterns, no_decay=no_decay, **more)
    except HyperparameterError as error:
        refused = str(error)
        assert "first pattern that matches" in refused or "a trainable parameter" in refused
        return
    found = dict(pair for group in result for pair in group["params"])
    assert sum(len(group["params"]) for group in result) == len(found)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained.keys()
    assert all(found[name] is p for name, p in trained.items())
    options = [told([group])[0][1] for group in result]
    assert all(a != b for k, a in enumerate(options) for b in options[:k])


def test_no_decay_is_timms_rule():
    net = Net()
    net.grid = nn.Module()
    net.grid.bias = nn.Parameter(torch.zeros(2, 2))  # two dimensions, but a bias
    net.scale = nn.Parameter(torch.tensor(1.0))
    kept = "token embed.weight blocks.0.linear.weight blocks.1.linear.weight "
    kept += "blocks.2.linear.weight head.weight"
    free, decayed = groups(net, no_decay=True)
    assert told([decayed]) == [(kept, {})]
    assert {name for name, _ in free["params"]} == set(names_of(net)) - set(kept.split())


def test_a_shared_parameter_is_once_in_its_first_name_and_matched_by_any():
    result = groups(tied(), {"head.weight": {"lr": 2}})
    assert told(result)[0] == ("embed.weight", {"lr": 2})
    assert "head.weight" not in told(result)[1][0]
    twice = [("a", p := nn.Parameter(torch.zeros(2))), ("b", p), ("a", p)]
    assert told(groups(twice)) == [("a", {})]


def test_frozen_parameters_are_left_out_and_keep_the_depth_of_the_others():
    expected = by_name(groups(Net(), layer_decay=0.5, lr=1.0), "lr")
    model = freeze(Net(), "embed", "blocks.0", "norm", "head")
    lrs = by_name(groups(model, layer_decay=0.5, lr=1.0), "lr")
    assert lrs == {name: expected[name] for name in names_of(model)}
    assert len(lrs) == 9


def chain(*names):
    return [(name, nn.Parameter(torch.zeros(1))) for name in names]


# parameters, then their depths below the top
LAYERS = [
    # BEiT: get_num_layer_for_vit with 12 blocks: embeddings 0, block k at k + 1, head at 13
    (
        ["cls_token", "patch_embed.proj.weight", "blocks.0.a", "blocks.1.a", "norm.weight", "head"],
        [3, 3, 2, 1, 0, 0],
    ),
    (["bert.embeddings.w", "bert.encoder.layer.0.w", "bert.encoder.layer.11.w"], [2, 1, 0]),
    (["wte.weight", "h.0.ln.w", "h.0.mlp.1.w", "h.1.mlp.0.w", "ln_f.w"], [3, 2, 2, 1, 0]),
    (["0.weight", "0.bias", "2.weight", "5.weight"], [2, 2, 1, 0]),  # nn.Sequential with ReLUs
    (["conv1.w", "layer1.0.w", "layer1.1.w", "layer2.0.w", "fc.w"], [4, 3, 2, 1, 0]),
    (["a.0.w", "a.norm.w", "b.0.w", "b.1.w", "b.norm.w"], [3, 3, 2, 1, 0]),
    (["conv2d.0.w", "x1.w"], [1, 0]),  # a number is a part of its own
]


@pytest.mark.parametrize(("names", "below"), LAYERS)
def test_layers_are_found_in_the_names(names, below):
    result = groups(chain(*names), layer_decay=0.5, lr=8.0)
    assert by_name(result, "lr") == {n: 8.0 * 0.5**k for n, k in zip(names, below, strict=True)}


def test_few_groups_for_layers_with_and_without_decay():
    result = groups(Net(), {"head.*": {"lr": 1e-2}}, no_decay=True, layer_decay=0.75, lr=1e-3)
    lrs = [1e-2, 1e-2, 1e-3 * 0.75**4] + [1e-3 * 0.75**k for k in (3, 3, 2, 2, 1, 1)] + [1e-3]
    assert [group["lr"] for group in result] == pytest.approx(lrs)
    decays = [group.get("weight_decay") for group in result]
    assert decays == [None, 0, None, 0, None, 0, None, 0, None, 0]


def test_a_schedule_and_a_tensor_are_multiplied_too():
    schedule = cosine(1e-3, total=10)
    result = groups(Net(), {"embed.*": {"lr": 2.0}}, layer_decay=0.5, lr=schedule)
    lrs = by_name(result, "lr")
    assert lrs["head.bias"] is schedule
    assert lrs["blocks.2.norm.bias"] == 0.5 * schedule
    assert lrs["embed.weight"] == 2.0 * 0.5**4
    result = groups(Net(), layer_decay=0.5, lr=(lr := torch.tensor(0.25)))
    assert [float(group["lr"]) for group in result] == [2**-6, 2**-5, 2**-4, 2**-3, 2**-2]
    assert result[-1]["lr"] is lr


@pytest.mark.parametrize("module", [torch.optim, optim], ids=["torch", "steepest"])
def test_optimizers_take_the_groups_and_their_names(module):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    made = groups(model, {"2.*": {"lr": 0.5}}, no_decay=True, layer_decay=0.5, lr=0.2)
    optimizer = module.AdamW(made, weight_decay=0.3)
    assert [(g["param_names"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (["2.weight"], 0.5, 0.3),
        (["2.bias"], 0.5, 0.0),
        (["0.weight"], 0.1, 0.3),
        (["0.bias"], 0.1, 0.0),
    ]


def test_a_checkpoint_matches_by_name():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    first = optim.SGD(groups(model, {"*.bias": {"lr": 1.0}}), lr=0.1, momentum=0.9)
    model(torch.rand(2, 3)).sum().backward()
    first.step()
    reverse = list(model.named_parameters())[::-1]
    second = optim.SGD(groups(reverse, {"*.bias": {"lr": 1.0}}), lr=0.1, momentum=0.9)
    second.load_state_dict(first.state_dict())
    for p in model.parameters():
        buffers = [optimizer.state[p]["momentum_buffer"] for optimizer in (first, second)]
        torch.testing.assert_close(*buffers, rtol=0, atol=0)


REFUSED = {
    "typo": (Net, {"*nrom*": {}}, {}, "must match a parameter, got '*nrom*' (did you mean 'norm'?"),
    "name": (Net, {"head.wieght": {}}, {}, "(did you mean 'head.weight'?): the names are 'token',"),
    "path": (Net, {"block.0.*": {}}, {}, "(did you mean 'blocks.0'?)"),
    "second": (Net, {"x|*.bais": {}}, {}, "(did you mean 'bias'?)"),
    "stars": (Net, {"*.hd.*": {}}, {}, "(did you mean 'head'?)"),
    "case": (Net, {"HEAD.*": {}}, {}, "got 'HEAD.*' (did you mean 'head'?)"),
    "far": (Net, {"zzzz": {}}, {}, "got 'zzzz': the names are 'token', 'embed.weight', "),
    "many": (Net, {"zzzz": {}}, {}, " ... (18)"),
    "taken": (
        Net,
        {"*.bias": {}, "head.*|*.weight": {}, "norm.*": {}},
        {},
        "got 'norm.*', of whose 2 parameters '*.bias', 'head.*|*.weight' left none: put the narr",
    ),
    "taken by all": (Net, {"*": {}, "head.*": {}}, {}, "of whose 2 parameters '*' left none"),
    "frozen": (
        lambda: freeze(Net(), "head"),
        {"head.*": {}},
        {},
        "got 'head.*' for 'head.weight', 'head.bias', frozen by requires_grad=False: unfreeze",
    ),
    "taken or frozen": (
        lambda: freeze(Net(), "norm"),
        {"*.bias": {}, "head.bias|norm.*": {}},
        {},
        "of whose 1 parameters '*.bias' left none",
    ),
    "all frozen": (lambda: freeze(Net(), ""), {}, {}, "got 18 parameters, all with requires_grad="),
    "none": (nn.ReLU, {}, {}, "got 0 parameters"),
    "no names": (lambda: Net().parameters(), {}, {}, "names, got a Parameter: give the model, or"),
    "not called": (lambda: Net().named_parameters, {}, {}, "got a method: give the model"),
    "a dict": (lambda: dict(Net().named_parameters()), {}, {}, "got a str: give the model"),
    "swapped": (lambda: [(p, n) for n, p in Net().named_parameters()], {}, {}, "got a tuple"),
    "two of a name": (lambda: chain("a", "b", "a"), {}, {}, "one parameter's, got 'a' twice"),
    "a list": (Net, ["*.bias"], {}, "patterns must be a dict, got a list"),
    "a number": (Net, {"*.bias": 0.0}, {}, "dict of hyperparameters, which does not"),
    "no text": (Net, {3: {}}, {}, "a pattern over names has a dict of hyperparameters"),
    "params": (Net, {"*.bias": {"params": []}}, {}, "does not name the params again"),
    "lr alone": (Net, {}, {"lr": 0.1}, "lr and depth belong to layer_decay"),
    "depth alone": (Net, {}, {"depth": len}, "lr and depth belong to layer_decay"),
    "no lr": (Net, {}, {"layer_decay": 0.5}, "got no lr: give it here too"),
    "zero": (Net, {}, {"layer_decay": 0, "lr": 1}, "above 0 and at most 1, got 0: give"),
    "growth": (Net, {}, {"layer_decay": 1.1, "lr": 1}, "above 0 and at most 1, got 1.1"),
    "text": (Net, {}, {"layer_decay": "0.5", "lr": 1}, "above 0 and at most 1, got '0.5'"),
    "no layers": (lambda: SMALL, {}, {"layer_decay": 0.5, "lr": 1}, "got 'a.weight', 'a.bias', "),
    "no number": (
        Net,
        {},
        {"layer_decay": 0.5, "lr": 1, "depth": lambda name: None},
        "depth must return a number for each name, got None for 'token'",
    ),
    "a function as lr": (
        Net,
        {"head.*": {"lr": lambda step: 1.0}},
        {"layer_decay": 0.5, "lr": 1},
        "must be a number, a tensor or a schedule of steepest.schedules, got <function",
    ),
}


@pytest.mark.parametrize(("make", "patterns", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, patterns, options, message):
    with pytest.raises(HyperparameterError, match=re.escape(message)) as error:
        groups(make(), patterns, **options)
    assert str(error.value).startswith("groups: ")


def test_a_rule_of_its_own_for_a_group_needs_mixed():
    patterns = {"*.bias": {"optimizer": optim.SGD, "lr": 0.1}}
    for kind in (optim.AdamW, optim.LBFGS):
        with pytest.raises(HyperparameterError, match=r"names SGD .* to optim\.Mixed"):
            kind(groups(Net(), patterns))

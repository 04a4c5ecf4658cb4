"""Launches: what kernels refuse, what they serve, and that no moved tensor escapes them."""

import gc
import re

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import KernelError
from steepest.kernels import launch
from steepest.kernels.tensors import why_not, why_not_counter


class Subclass(torch.Tensor):
    """A tensor that no kernel may take for a plain one."""


def inference():
    with torch.inference_mode():
        return torch.ones(3)


def shrunk():
    t = torch.ones(1000)
    t.untyped_storage().resize_(0)
    return t


def transformed():
    seen = []
    torch.func.vmap(lambda x: (seen.append(x), x)[1])(torch.ones(2, 3))
    return seen[0]


# ---- refusals -----------------------------------------------------------------------------------

ONES = torch.ones(3)
REFUSED = {
    "bfloat16": (lambda: [torch.ones(3, dtype=torch.bfloat16)], "dtype is torch.bfloat16"),
    "float16": (lambda: [torch.ones(3, dtype=torch.float16)], "dtype is torch.float16"),
    "complex": (lambda: [torch.ones(3, dtype=torch.complex64)], "dtype is torch.complex64"),
    "integer": (lambda: [torch.ones(3, dtype=torch.int32)], "dtype is torch.int32"),
    "sparse": (lambda: [torch.eye(3).to_sparse()], "layout is torch.sparse_coo"),
    "csr": (lambda: [torch.eye(3).to_sparse_csr()], "layout is torch.sparse_csr"),
    "mkldnn": (lambda: [ONES.to_mkldnn()], "layout is torch._mkldnn"),
    "meta": (lambda: [ONES.to("meta")], "device meta"),
    "subclass": (lambda: [ONES.as_subclass(Subclass)], "a Subclass is not a plain tensor"),
    "negative": (lambda: [torch.complex(ONES, ONES).conj().imag], "sign is yet to be turned"),
    "negative view": (lambda: [torch._neg_view(ONES)], "sign is yet to be turned"),
    "inference": (lambda: [inference()], "inference mode"),
    "nested": (lambda: [torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])], "of its own"),
    "functional": (lambda: [torch._to_functional_tensor(ONES)], "of its own"),
    "vmap": (lambda: [transformed()], "of its own"),
    "zero": (lambda: [torch._efficientzerotensor(3)], "of its own"),
    "shrunk": (lambda: [shrunk()], "storage is smaller"),
    "gaps": (lambda: [torch.ones(6)[::2]] * 2, "overlap or leave gaps"),
    "expanded": (lambda: [torch.ones(1).expand(3)] * 2, "overlap or leave gaps"),
    "overlapping": (
        lambda: [torch.ones(5).as_strided((3, 3), (1, 1))] * 2,
        "overlap or leave gaps",
    ),
    "gradient's strides": (lambda: [torch.ones(2, 3), torch.ones(3, 2).t()], "strides differ"),
    "state's strides": (lambda: [torch.ones(2, 3)] * 2 + [torch.ones(3, 2).t()], "strides differ"),
    "gradient's dtype": (
        lambda: [ONES, ONES.double()],
        "a torch.float64 .* belongs to a torch.float32",
    ),
    "state's dtype": (lambda: [ONES, ONES, ONES.double()], "a torch.float64 .* belongs to"),
    "gradient's shape": (
        lambda: [ONES, torch.ones(4)],
        r"\(4,\) belongs to a torch.float32 \(3,\)",
    ),
}
SERVED = {
    "parameter": [nn.Parameter(ONES), ONES, ONES],
    "float64": [ONES.double()] * 3,
    "scalar": [torch.tensor(1.0)] * 2,
    "empty": [torch.ones(0)] * 2,
    "empty with gaps": [torch.ones(4, 0)[::2], torch.ones(2, 0)],
    "transposed": [torch.ones(2, 3).t()] * 2,
    "channels last": [torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)] * 2,
    "odd strides of one": [torch.ones(3).as_strided((1, 3), (77, 1)), torch.ones(1, 3)],
    "one of many": [torch.ones(9).as_strided((1, 1), (5, 7)), torch.ones(1, 1)],
    "conjugated real": [ONES.conj(), ONES],
    "part of another": [torch.ones(9)[2:5], torch.ones(12)[3:6]],
    "lazily cloned": [torch._lazy_clone(ONES), ONES],
    "from numpy": [torch.from_numpy(ONES.numpy().copy()), ONES],
}


@pytest.mark.filterwarnings("ignore:.*(beta|prototype)")
@pytest.mark.parametrize("case", REFUSED)
def test_why_not(case):
    make, reason = REFUSED[case]
    said = why_not(*make())
    assert said is not None
    assert re.search(reason, said)


@pytest.mark.parametrize("case", SERVED)
def test_served(case):
    assert why_not(*SERVED[case]) is None


@pytest.mark.parametrize(
    ("counter", "served"),
    [
        (torch.tensor(1.0), True),
        (torch.tensor([1.0]), True),
        (torch.tensor(1.0, dtype=torch.float64), False),
        (torch.tensor(1), False),
        (torch.ones(2), False),
        (torch.tensor(1.0, device="meta"), False),
        (torch.tensor(1.0).as_subclass(Subclass), False),
    ],
)
def test_counters(counter, served):
    assert (why_not_counter(counter) is None) is served


GRADS = {
    "sparse": (torch.eye(3).to_sparse(), "layout is torch.sparse_coo"),
    "expanded": (torch.ones(1).expand(3, 3), "strides differ"),
    "gaps": (torch.ones(3, 6)[:, ::2], "strides differ"),
    "subclass": (torch.ones(3, 3).as_subclass(Subclass), "not a plain tensor"),
    "negative": (torch._neg_view(torch.ones(3, 3)), "sign is yet to be turned"),
}


@pytest.mark.parametrize("case", GRADS)
def test_fused_insists_and_says_why_not(case):
    grad, reason = GRADS[case]
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = grad
    before = p.detach().clone()
    with pytest.raises(KernelError, match=f"fused=True, but no kernel .*{reason}"):
        optim.Adam([p], fused=True).step()
    assert torch.equal(p.detach(), before)


# ---- served layouts -----------------------------------------------------------------------------


def turned(shape):
    return lambda: torch.randn(shape).transpose(0, -1)


LAYOUTS = {
    "channels last": lambda: torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
    "transposed": turned((17, 33)),
    "three turned": turned((3, 4, 5)),
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "odd strides of one": lambda: torch.randn(3).as_strided((1, 3), (77, 1)),
}


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dense_layouts_use_the_kernel(layout, name, close):
    make = LAYOUTS[layout]
    ours, theirs = nn.Parameter(make()), nn.Parameter(torch.empty(0))
    theirs.data = ours.data.clone()
    options = {"momentum": 0.9} if name == "SGD" else {}
    mine = getattr(optim, name)([ours], lr=0.1, **options)
    reference = getattr(torch.optim, name)([theirs], lr=0.1, **options)
    for _ in range(3):
        ours.grad = make()
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
        close(ours.detach(), theirs.detach())
    assert mine._update.launches
    assert not mine._update.rows


# ---- shared memory ------------------------------------------------------------------------------


def exact_alias(params):
    params[1].data = params[0].data


def shifted_alias(params):
    params[1].data = params[0].data[2:]
    params[1].grad = torch.randn(params[1].shape)


def part(params):
    params[1].data = params[0].data[:4]
    params[1].grad = torch.randn(4)


def own_gradient(params):
    params[0].grad = params[0].detach()


def other_gradient(params):
    params[0].grad = params[1].detach()


SHARED = [exact_alias, shifted_alias, part, own_gradient, other_gradient]


def pair():
    torch.manual_seed(1)
    params = [nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))]
    for p in params:
        p.grad = torch.randn(12)
    return params


@pytest.mark.parametrize("share", SHARED)
@pytest.mark.parametrize("when", [0, 2], ids=["at once", "after two steps"])
def test_shared_memory_goes_to_the_reference(share, when, close):
    results = []
    for module in (optim, torch.optim):
        params = pair()
        optimizer = module.SGD(params, lr=0.1)
        for k in range(4):
            if k == when:
                share(params)
            optimizer.step()
        results.append(params)
        if module is optim:
            assert not optimizer._update.launches
    for mine, theirs in zip(*results, strict=True):
        close(mine.detach(), theirs.detach())


@pytest.mark.parametrize("share", SHARED)
def test_memory_shared_by_two_launches_goes_to_the_reference(share, close):
    """Two plans are two launches; torch updates group by group, and so must we."""
    results = []
    for module in (optim, torch.optim):
        params = pair()
        share(params)
        first, second = params[:1], params[1:]
        groups = [{"params": first, "weight_decay": 0.1}, {"params": second}]
        optimizer = module.SGD(groups, lr=0.1)
        for _ in range(3):
            optimizer.step()
        results.append(params)
    for mine, theirs in zip(*results, strict=True):
        close(mine.detach(), theirs.detach())


@pytest.mark.parametrize("share", [exact_alias, shifted_alias, part])
def test_memory_shared_with_a_row_of_the_reference(share, close):
    results = []
    for fused in (None, False):
        params = pair()
        share(params)
        params[0].grad = params[0].grad.as_subclass(Subclass)
        optimizer = optim.SGD(params, lr=0.1, fused=fused)
        for _ in range(3):
            optimizer.step()
        results.append(params)
        assert not optimizer._update.launches
    for mine, theirs in zip(*results, strict=True):
        close(mine.detach(), theirs.detach())


@pytest.mark.parametrize("when", [0, 2], ids=["at once", "after two steps"])
def test_gradient_of_a_row_of_the_reference_in_a_kernels_memory(when, close):
    results = []
    for fused in (None, False):
        p, q = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3, 4))
        optimizer = optim.SGD([q, p], lr=0.1, momentum=0.5, fused=fused)
        for k in range(4):
            q.grad = torch.full((3, 4), 1.0 + k)
            p.grad = q.detach().t() if k >= when else torch.ones(3, 4).t()
            optimizer.step()
        results.append((p, q))
    for mine, theirs in zip(*results, strict=True):
        close(mine.detach(), theirs.detach())


def test_shared_memory_refused_when_fused_is_wanted():
    params = pair()
    exact_alias(params)
    with pytest.raises(KernelError, match="shares memory"):
        optim.SGD(params, fused=True).step()


# ---- nothing moves unseen -----------------------------------------------------------------------


def data_replaced(p, opt):
    p.data = torch.randn(64)


def data_set(p, opt):
    p.data.set_(torch.randn(64))


def data_set_in_place(p, opt):
    with torch.no_grad():
        p.set_(torch.randn(64))


def data_shorter_at_the_same_address(p, opt):
    p.grad = None
    p.data = p.data[:32]
    p.grad = torch.randn(32)
    opt.state[p]["momentum_buffer"] = torch.randn(32)


def data_of_another_dtype_at_the_same_address(p, opt):
    p.grad = None
    p.data = p.data.view(torch.float64)
    p.data.fill_(1.0)
    p.grad = torch.randn(32, dtype=torch.float64)
    opt.state[p]["momentum_buffer"] = torch.randn(32, dtype=torch.float64)


def data_of_other_strides_at_the_same_address(p, opt):
    p.grad = None
    p.data = p.data.view(8, 8).t()
    p.grad = torch.randn(8, 8)
    opt.state[p]["momentum_buffer"] = torch.randn(8, 8)


def data_resized(p, opt):
    p.data.resize_(1000)  # p itself keeps its size, in other memory


def storage_regrown(p, opt):
    with torch.no_grad():
        p.untyped_storage().resize_(0)
        p.untyped_storage().resize_(256)
        p.fill_(1.0)


def swapped(p, opt):
    p.grad = None
    torch.utils.swap_tensors(p, nn.Parameter(torch.randn(64)))
    p.grad = torch.randn(64)


def swapped_with_another_kind(p, opt):
    p.grad = None
    torch.utils.swap_tensors(p, nn.Parameter(torch._neg_view(torch.randn(64))))
    p.grad = torch.randn(64)


def another_class(p, opt):
    p.__class__ = Subclass


def shared_memory(p, opt):
    p.share_memory_()


def lazily_cloned(p, opt):
    p.kept = torch._lazy_clone(p.detach())


def frozen(p, opt):
    p.requires_grad_(False)


def gradient_data(p, opt):
    p.grad.data = torch.randn(64)


def gradient_freed_and_reused(p, opt):
    p.grad = None
    gc.collect()
    p.grad = torch.randn(64)


def gradient_sparse(p, opt):
    p.grad = torch.randn(64).to_sparse()


def gradient_of_another_class(p, opt):
    p.grad = torch.randn(64).as_subclass(Subclass)


def gradient_negative(p, opt):
    p.grad = torch._neg_view(p.grad)  # the same address, sizes and strides


def gradient_expanded(p, opt):
    p.grad = torch.randn(1).expand(64)


def gradient_with_gaps(p, opt):
    p.grad = torch.randn(128)[::2]


def gradient_lazily_cloned(p, opt):
    p.grad = torch._lazy_clone(p.grad)


def gradient_overlaps(p, opt):
    p.grad = p.detach()


def gradient_overlaps_state(p, opt):
    p.grad = opt.state[p]["momentum_buffer"]


def state_replaced(p, opt):
    opt.state[p]["momentum_buffer"] = torch.randn(64)


def state_data(p, opt):
    opt.state[p]["momentum_buffer"].data = torch.randn(64)


def state_set(p, opt):
    opt.state[p]["momentum_buffer"].set_(torch.randn(64))


def state_updated(p, opt):
    opt.state[p].update(momentum_buffer=torch.randn(64))


def state_merged(p, opt):
    entry = opt.state[p]
    entry |= {"momentum_buffer": torch.randn(64)}


def state_popped(p, opt):
    opt.state[p].pop("momentum_buffer")


def state_deleted(p, opt):
    del opt.state[p]["momentum_buffer"]


def state_cleared(p, opt):
    opt.state.clear()


def state_entry_cleared(p, opt):
    opt.state[p].clear()


def state_made_a_plain_dict(p, opt):
    opt.state[p] = {"momentum_buffer": torch.randn(64)}


def state_made_none(p, opt):
    opt.state[p]["momentum_buffer"] = None


def group_replaced(p, opt):
    opt.param_groups[0] = {**opt.param_groups[0], "lr": 0.5}


def groups_replaced(p, opt):
    opt.param_groups = [{**opt.param_groups[0], "lr": 0.5}]


def parameter_exchanged(p, opt):
    new = nn.Parameter(torch.randn(64))
    new.grad = torch.randn(64)
    opt.param_groups[0]["params"][0] = new


def parameters_popped(p, opt):
    opt.param_groups[0]["params"].pop()


CHANGES = [
    data_replaced, data_set, data_set_in_place, data_shorter_at_the_same_address,
    data_of_another_dtype_at_the_same_address, data_of_other_strides_at_the_same_address,
    data_resized, storage_regrown, swapped, swapped_with_another_kind, another_class,
    shared_memory, lazily_cloned, frozen, gradient_data, gradient_freed_and_reused,
    gradient_sparse, gradient_of_another_class, gradient_negative, gradient_expanded,
    gradient_with_gaps, gradient_lazily_cloned, gradient_overlaps, gradient_overlaps_state,
    state_replaced, state_data, state_set, state_updated, state_merged, state_popped,
    state_deleted, state_cleared, state_entry_cleared, state_made_a_plain_dict, state_made_none,
    group_replaced, groups_replaced, parameter_exchanged, parameters_popped,
]  # fmt: skip


@pytest.mark.parametrize("parallel", [0, 1 << 30], ids=["parallel", "sequential"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_moves_unseen(change, parallel, monkeypatch, close):
    """A kernel with momentum, and the reference, live through the same change."""
    monkeypatch.setattr(launch, "PARALLEL", parallel)
    results = []
    for fused in (None, False):
        torch.manual_seed(2)
        p, other = nn.Parameter(torch.randn(64)), nn.Parameter(torch.randn(3))
        optimizer = optim.SGD([p, other], lr=0.1, momentum=0.9, fused=fused)
        for k in range(5):
            p.grad = torch.randn(64) if k < 3 else p.grad
            other.grad = torch.randn(3)
            optimizer.step()
            if k == 2:
                assert bool(optimizer._update.launches) is (fused is None)
                old = optimizer.param_groups[0]["params"][0].data
                kept = old.clone()
                change(p, optimizer)
        last = optimizer.param_groups[0]["params"][0]
        moved = old.data_ptr() != last.data_ptr() and change is not storage_regrown
        if moved and change is not lazily_cloned:
            assert torch.equal(old, kept), "the memory that the parameter left was written"
        state = [v for v in optimizer.state[last].values() if v is not None]
        results.append([last.detach(), p.detach(), other.detach(), *state])
        if change is lazily_cloned:
            assert torch.equal(p.kept, kept), "a lazy clone was written through"
    for mine, expected in zip(*results, strict=True):
        close(mine.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


def test_gradient_that_autograd_leaves_negative(close):
    """The gradient of an imaginary part may be a view whose sign is yet to be turned."""
    p = nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([p], lr=0.1)
    for k in range(3):
        p.grad = None
        weight = torch.tensor([2.0 + 3.0j])
        torch.complex(torch.zeros(1), p).backward(weight.conj() if k else weight)
        assert p.grad.is_neg() is (k > 0)
        optimizer.step()
    close(p.detach(), torch.ones(1) - 0.1 * (3.0 - 3.0 - 3.0))


@pytest.mark.parametrize("value", [7.0, 1.0])
def test_step_counter_changed_in_place(value, close):
    results = []
    for module in (optim, torch.optim):
        p = nn.Parameter(torch.ones(5))
        optimizer = module.Adam([p], lr=0.1)
        for k in range(4):
            p.grad = torch.linspace(-1, 1, 5)
            optimizer.step()
            if k == 1:
                optimizer.state[p]["step"].fill_(value)
        results.append((p.detach(), optimizer.state[p]["step"]))
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs)


def test_one_step_counter_for_two_parameters(close):
    results = []
    for module in (optim, torch.optim):
        params = pair()
        optimizer = module.Adam(params, lr=0.1, foreach=False)
        for k in range(4):
            optimizer.step()
            if k == 1:
                optimizer.state[params[0]]["step"] = optimizer.state[params[1]]["step"]
        results.append([*(p.detach() for p in params), optimizer.state[params[0]]["step"]])
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs)


def test_every_part_of_a_gradient_that_stays_is_read_anew():
    p = nn.Parameter(torch.zeros(4))
    p.grad = torch.zeros(4)
    optimizer = optim.SGD([p], lr=1.0)
    for _ in range(3):
        optimizer.step()
    p.grad[2] = 5.0
    optimizer.step()
    assert p.tolist() == [0, 0, -5, 0]

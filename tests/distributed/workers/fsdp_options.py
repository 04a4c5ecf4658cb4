"""FSDP2 with what an optimizer does besides its formula, and formulas that look at whole tensors.

Every decision must be of all shards: the same optimizer in one process, on whole tensors and by the
reference, is compared with.
"""

from functools import partial

import torch
from group import RANK, Pair, assert_same_parameters, batches, model, process_group, train, whole
from sharding import sharded
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.testing import assert_close

from steepest import optim
from steepest.formula import mean, norm, orthogonalize, sqrt, total
from steepest.optim.shards import local


def trust(p, g, exp_avg, *, lr=0.01, beta=0.9):
    exp_avg = beta * exp_avg + (1 - beta) * g
    p = p - lr * exp_avg * (norm(p) + 1) / (norm(exp_avg) + 1e-3) - lr * mean(g)
    return p, exp_avg


def together(p, g, *, lr=0.05):
    size = sqrt(total(g * g))
    return p - lr * g / (1 + size)


def turned(p, g, exp_avg, *, lr=0.01):
    exp_avg = 0.9 * exp_avg + g
    p = p - lr * orthogonalize(exp_avg)
    return p, exp_avg


class Trust(optim.Optimizer, formula=trust):
    """Numbers of each whole tensor, as LAMB has."""


class Together(optim.Optimizer, formula=together):
    """A number of all tensors together, as Prodigy has."""


class Turned(optim.Optimizer, formula=turned):
    """A word that needs the whole matrix."""


def pair(name, cls, **options):
    """Pair an optimizer with itself in one process, run by the reference."""
    return Pair(name, partial(cls, **options), partial(cls, **options, fused=False))


kernel = partial(optim.AdamW, fused=True)
PAIRS = [
    pair("average", kernel, lr=0.01, average="ema", average_decay=0.8),
    pair("mean", optim.SGD, lr=0.05, momentum=0.9, average="mean"),
    pair("clip_value", kernel, lr=0.01, clip_value=0.01),
    pair("clip_norm and a schedule", kernel, lr=lambda step: 0.01 / (1 + step), clip_norm=0.1),
    pair("zero_grad", kernel, lr=0.01, zero_grad=True, norms=True),
    pair("whole", Trust),
    pair("all", Together),
]


def on_a_mesh_of(*sizes):
    """Shard over the last dimension of a mesh and keep copies over the others."""
    return lambda: sharded(init_device_mesh("cpu", sizes, mesh_dim_names=("copies", "shards")))


SPREADS = {
    "shards": sharded,
    "copies": on_a_mesh_of(2, 1),
    "shards in a mesh of two dimensions": on_a_mesh_of(1, 2),
}


def compare(pair, make):
    net, alone = make(), model()
    optimizer, theirs = pair.ours(net.parameters()), pair.reference(alone.parameters())
    train(net, optimizer, batches(6))
    train(alone, theirs, batches(6, whole=True))
    assert_same_parameters(net, alone, pair.name)
    if optimizer.averages:
        with optimizer.averaged(), theirs.averaged():
            assert_same_parameters(net, alone, f"{pair.name} swapped in")
        assert_same_parameters(net, alone, f"{pair.name} swapped back")
    for p in net.parameters():
        assert not hasattr(p, "_local_tensor") or local(p).grad is None, "memory is kept"


def look(make, fused):
    """The norms of each parameter, and of all, are of whole tensors."""
    net, alone = make(), model()
    optimizer = optim.AdamW(net.named_parameters(), lr=0.01, norms=True, fused=fused)
    theirs = optim.AdamW(alone.named_parameters(), lr=0.01, norms=True)
    for mine, all_rows in zip(batches(3), batches(3, whole=True), strict=True):
        train(net, optimizer, [mine])
        train(alone, theirs, [all_rows])
        found, expected = optimizer.norms, theirs.norms
        assert found.by_parameter.keys() == expected.by_parameter.keys()
        for name, part in [("", expected), *expected.by_parameter.items()]:
            of = found.by_parameter[name] if name else found
            for word in ("gradient", "parameter", "update"):
                assert_close(getattr(of, word), getattr(part, word), rtol=1e-4, atol=0)
    net[0].weight.grad = distribute_like(torch.full((7, 5), torch.nan), net[0].weight)
    optimizer.step()
    assert optimizer.norms.nonfinite == 35


def distribute_like(whole, p):
    return distribute_tensor(whole, p.device_mesh, p.placements)


def skip_together(make, fused, bad):
    """A gradient that is not finite in one process's shard keeps every process from the step."""
    net = make()
    optimizer = optim.AdamW(net.parameters(), lr=0.01, skip_nonfinite=True, fused=fused)
    for k, (x, y) in enumerate(batches(3)):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        if k == 1 and RANK == 1:
            local(net[0].weight.grad).view(-1)[0] = bad
        before = [whole(p).clone() for p in net.parameters()]
        optimizer.step()
        stayed = [torch.equal(whole(p), b) for p, b in zip(net.parameters(), before, strict=True)]
        assert all(stayed) if k == 1 else not any(stayed), (fused, bad, k, stayed)
        assert optimizer.skipped_steps == int(k >= 1)


def stale_parts():
    """A part that is another tensor, or gradients that come and go, are met at every step."""
    net, alone = sharded(), model()
    sides = [(net, optim.SGD, batches(8)), (alone, torch.optim.SGD, batches(8, whole=True))]
    for side, make, data in sides:
        optimizer = make(side.parameters(), lr=0.05, momentum=0.9)
        for k, (x, y) in enumerate(data):
            optimizer.zero_grad()
            nn.functional.mse_loss(side(x), y).backward()
            if k in (2, 3):
                side[0].bias.grad = None
            if k == 4:
                state = optimizer.state[side[0].weight]
                state["momentum_buffer"] = state["momentum_buffer"].clone() * 0.5
            if k == 5 and side is net:
                state = optimizer.state[net[0].weight]["momentum_buffer"]
                state._local_tensor = state._local_tensor.clone()
            if k == 6:
                for group in optimizer.param_groups:
                    group["weight_decay"] = 0.1
            optimizer.step()
    assert_same_parameters(net, alone, "stale parts")


def placed(placements, gradient, **options):
    """A parameter and its gradient laid out by hand, as tensor parallelism does."""
    mesh = init_device_mesh("cpu", (2,))
    optimizer_of = partial(optim.AdamW, lr=0.1, clip_norm=0.5, norms=True, **options)
    start, g = torch.arange(12.0).view(3, 4) - 5, torch.linspace(-1, 1, 12).view(3, 4)
    p = nn.Parameter(distribute_tensor(start, mesh, placements))
    alone = nn.Parameter(start.clone())
    ours, theirs = optimizer_of([p]), optim.AdamW([alone], lr=0.1, clip_norm=0.5, norms=True)
    for k in range(3):
        p.grad = gradient(g + k, mesh)
        alone.grad = g + k
        version = p._version
        ours.step()
        theirs.step()
        assert p._version > version
        assert_close(whole(p), alone.detach())
        assert_close(ours.grad_norm, theirs.grad_norm)
        assert_close(ours.norms.update, theirs.norms.update, rtol=1e-5, atol=0)


def halves(g, mesh):
    """A gradient whose sum over the processes is yet to be made."""
    return DTensor.from_local(g / 2, mesh, [Partial()])


def as_placed(*placements):
    return lambda g, mesh: distribute_tensor(g, mesh, placements)


def in_backward(make, fused):
    """Shards are updated in the backward pass, and their gradients freed."""
    net, alone = make(), model()
    optimizer = optim.AdamW(net.parameters(), lr=0.01, fused=fused, norms=True)
    theirs = optim.AdamW(alone.parameters(), lr=0.01, norms=True)
    optimizer.step_in_backward(net)
    for mine, all_rows in zip(batches(4), batches(4, whole=True), strict=True):
        train(net, optimizer, [mine])
        train(alone, theirs, [all_rows])
        assert all(p.grad is None for p in net.parameters())
        assert_close(optimizer.norms.update, theirs.norms.update, rtol=1e-4, atol=0)
    assert_same_parameters(net, alone, "in backward")


def matrix(cls, rows):
    """Words for matrices, of which every process has some rows, one fewer than the other."""
    mesh = init_device_mesh("cpu", (2,))
    start = torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    p = nn.Parameter(distribute_tensor(start, mesh, [Shard(0)]))
    alone = nn.Parameter(start.clone())
    ours, theirs = cls([p]), cls([alone], fused=False)
    for k in range(5):
        g = start.cos() + (k * start).sin()
        p.grad, alone.grad = distribute_tensor(g, mesh, [Shard(0)]), g
        ours.step()
        theirs.step()
        assert_close(whole(p), alone.detach())
    assert p.placements == ours.state[p]["exp_avg"].placements == (Shard(0),)


with process_group():
    for make in SPREADS.values():
        for each in PAIRS:
            compare(each, make)
        look(make, fused=True)
    look(sharded, fused=False)
    for fused in (True, False):
        for bad in (torch.nan, torch.inf):
            skip_together(sharded, fused, bad)
    stale_parts()
    in_backward(sharded, fused=True)
    in_backward(sharded, fused=False)
    for fused in (True, False):
        for placements in ([Replicate()], [Shard(0)], [Shard(1)]):
            placed(placements, as_placed(*placements), fused=fused)
            placed(placements, halves, fused=fused)
    matrix(Turned, rows=5)
    matrix(partial(optim.SOAP, precondition_frequency=2), rows=3)

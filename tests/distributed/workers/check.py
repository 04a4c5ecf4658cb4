"""The watch in two processes: no fact is told of clean programs, and none waits for another."""

import torch
from group import batches, model, process_group, train
from sharding import sharded
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from steepest.check import watch


def told(net, optimizer, steps, *, known):
    with watch(*((net, optimizer) if known else ())) as watched:
        steps(net, optimizer)
    return [str(finding) for finding in watched.findings() if finding.is_fact]


def plain(net, optimizer):
    train(net, optimizer, batches(24))


def clipped(net, optimizer):
    for x, y in batches(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.2)
        optimizer.step()


def accumulated(net, optimizer):
    """Gradients are sent at the second backward alone."""
    for k, (x, y) in enumerate(batches(8)):
        if isinstance(net, DistributedDataParallel):
            net.require_backward_grad_sync = bool(k % 2)
        else:
            net.set_requires_gradient_sync(bool(k % 2))
        (nn.functional.mse_loss(net(x), y) / 2).backward()
        if k % 2:
            optimizer.step()
            optimizer.zero_grad()


def in_place(net, optimizer):
    for x, y in batches(4):
        optimizer.zero_grad(set_to_none=False)
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()


def scaled(net, optimizer):
    """The first update has infinite gradients, and is skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-90)
    for x, y in batches(4):
        optimizer.zero_grad()
        output = net(x)
        output.register_hook(lambda g: 1e25 * g)
        scaler.scale(1e-12 * nn.functional.mse_loss(output, y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**10


def overflowing(net, optimizer):
    """The scaled loss is infinite at first, and the first update is skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-117)
    for x, y in batches(4):
        optimizer.zero_grad()
        scaler.scale(1e6 * nn.functional.mse_loss(net(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**10


def forgotten(net, optimizer):
    """No zero_grad: told in each process, and no process waits for another."""
    for x, y in batches(4):
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()


MODELS = {
    "DDP": lambda: DistributedDataParallel(model()),
    "DDP of views": lambda: DistributedDataParallel(model(), gradient_as_bucket_view=True),
    "FSDP2": sharded,
}

with process_group():
    for name, make in MODELS.items():
        for steps in (plain, clipped, accumulated, in_place, scaled, overflowing):
            for known in (True, False):
                net = make()
                optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
                found = told(net, optimizer, steps, known=known)
                assert found == [], (name, steps.__name__, known, found)
        net = make()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        assert "SC101" in str(told(net, optimizer, forgotten, known=True)), name

"""FSDP2: every parameter a DTensor of which each process holds a shard, one of them empty."""

import torch
from group import PAIRS, RANK, assert_same_parameters, batches, model, process_group, train
from sharding import sharded
from torch import nn


def compare(pair, **options):
    """Train, look at the validation loss as one does, and train on."""
    net, alone = sharded(), model()
    assert [p.to_local().numel() for p in net.parameters()] == [[20, 4, 7, 1], [15, 3, 0, 0]][RANK]
    optimizer = pair.ours(net.parameters(), **options)
    data = batches(8)
    train(net, optimizer, data[:4])
    with torch.no_grad():
        net(data[0][0])
    train(net, optimizer, data[4:])
    train(alone, pair.reference(alone.parameters()), batches(8, whole=True))
    assert_same_parameters(net, alone, pair.name)


def clip(pair):
    """torch's clip, of whole norms, before a step on shards."""
    sides = [(sharded(), pair.ours, batches(6)), (model(), pair.reference, batches(6, whole=True))]
    for net, make, data in sides:
        optimizer = make(net.parameters())
        for x, y in data:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.2)
            optimizer.step()
    assert_same_parameters(sides[0][0], sides[1][0], f"{pair.name} clipped")


def skip_together(pair):
    """A NaN in one process's shard must keep every process from the step."""
    net, scaler = sharded(), torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = pair.ours(net.parameters())
    for k, (x, y) in enumerate(batches(3)):
        optimizer.zero_grad()
        scaler.scale(nn.functional.mse_loss(net(x), y)).backward()
        if k == 1 and RANK == 1:
            net[0].weight.grad.to_local()[0] = torch.nan
        before = [p.to_local().clone() for p in net.parameters()]
        scaler.step(optimizer)
        scaler.update()
        stayed = [
            torch.equal(p.to_local(), b) for p, b in zip(net.parameters(), before, strict=True)
        ]
        assert all(stayed) if k == 1 else not all(stayed), (pair.name, k, stayed)
    assert scaler.get_scale() == 4.0


with process_group():
    for pair in PAIRS:
        compare(pair)
        compare(pair, fused=True)  # which refuses where no kernel serves
        clip(pair)
        skip_together(pair)

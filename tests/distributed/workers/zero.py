"""ZeroRedundancyOptimizer: each process updates a part of the parameters and sends it around."""

import torch
import torch.distributed as dist
from group import PAIRS, RANK, assert_same_parameters, batches, model, process_group, train
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel


def zero(net, make):
    return ZeroRedundancyOptimizer(net.parameters(), make.func, **make.keywords)


def compare(pair):
    """Train, save on process 0, load everywhere, and train on."""
    net, alone = DistributedDataParallel(model()), model()
    data, rows = batches(8), batches(8, whole=True)
    optimizer = zero(net, pair.ours)
    train(net, optimizer, data[:4])
    saved = [None]
    optimizer.consolidate_state_dict(to=0)
    if RANK == 0:
        saved = [optimizer.state_dict()]
        assert len(saved[0]["state"]) == len(list(net.parameters()))
    dist.broadcast_object_list(saved, src=0)
    optimizer = zero(net, pair.ours)
    optimizer.load_state_dict(saved[0])
    train(net, optimizer, data[4:])
    train(alone, pair.reference(alone.parameters()), rows)
    assert_same_parameters(net.module, alone, pair.name)


def schedule(pair):
    """A scheduler on the outside reaches the optimizer that it hides."""
    net, alone = DistributedDataParallel(model()), model()
    sides = [(net, zero(net, pair.ours)), (alone, pair.reference(alone.parameters()))]
    for (side, optimizer), data in zip(sides, (batches(4), batches(4, whole=True)), strict=True):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for batch in data:
            train(side, optimizer, [batch])
            scheduler.step()
    assert_same_parameters(net.module, alone, f"{pair.name} scheduled")


with process_group():
    for pair in PAIRS:
        compare(pair)
        schedule(pair)

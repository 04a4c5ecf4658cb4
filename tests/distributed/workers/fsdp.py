"""FSDP2: every parameter a DTensor of which each process holds a shard, one of them empty."""

from group import PAIRS, RANK, assert_same_parameters, batches, model, process_group, train
from sharding import sharded
from torch import no_grad


def compare(pair):
    """Train, look at the validation loss as one does, and train on."""
    net, alone = sharded(), model()
    assert [p.to_local().numel() for p in net.parameters()] == [[20, 4, 7, 1], [15, 3, 0, 0]][RANK]
    optimizer = pair.ours(net.parameters())
    data = batches(8)
    train(net, optimizer, data[:4])
    with no_grad():
        net(data[0][0])
    train(net, optimizer, data[4:])
    train(alone, pair.reference(alone.parameters()), batches(8, whole=True))
    assert_same_parameters(net, alone, pair.name)


with process_group():
    for pair in PAIRS:
        compare(pair)

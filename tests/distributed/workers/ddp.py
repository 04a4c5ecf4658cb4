"""DistributedDataParallel: each process has half of a batch and ends where the whole would."""

from group import PAIRS, WORLD, assert_same_parameters, batches, model, process_group, train
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CLIP = 0.2


def train_clipped(net, optimizer, data):
    """The plain loop with torch's clip."""
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()


def compare(pair):
    net, alone = DistributedDataParallel(model()), model()
    train(net, pair.ours(net.parameters()), batches(6))
    train(alone, pair.reference(alone.parameters()), batches(6, whole=True))
    assert_same_parameters(net.module, alone, pair.name)


def compare_clipped(pair):
    """Gradients are the same in every process, and so is their norm."""
    net, alone = DistributedDataParallel(model()), model()
    train(net, pair.ours(net.parameters(), clip_norm=CLIP), batches(6))
    train_clipped(alone, pair.reference(alone.parameters()), batches(6, whole=True))
    assert_same_parameters(net.module, alone, f"{pair.name} clipped")


with process_group():
    assert WORLD == 2
    for pair in PAIRS:
        compare(pair)
        compare_clipped(pair)

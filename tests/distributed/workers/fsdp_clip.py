"""FSDP2 with clip_norm: the norm is of the whole gradients, not of one process's shards."""

from group import PAIRS, assert_same_parameters, batches, model, process_group, train
from sharding import sharded
from torch import nn
from torch.testing import assert_close

CLIP = 0.2


def compare(pair, fused):
    net, alone = sharded(), model()
    optimizer = pair.ours(net.parameters(), clip_norm=CLIP, fused=fused)
    theirs = pair.reference(alone.parameters())
    for mine, (x, y) in zip(batches(6), batches(6, whole=True), strict=True):
        train(net, optimizer, [mine])
        theirs.zero_grad()
        nn.functional.mse_loss(alone(x), y).backward()
        norm = nn.utils.clip_grad_norm_(alone.parameters(), CLIP)
        theirs.step()
        assert_close(optimizer.grad_norm, norm, rtol=1e-4, atol=0)
    assert_same_parameters(net, alone, pair.name)


with process_group():
    for pair in PAIRS:
        for fused in (True, False):
            compare(pair, fused)

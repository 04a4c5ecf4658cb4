"""timm: the loop of its train.py with its groups, scaler, scheduler, Lookahead and average."""

import pytest
from timm.optim import Lookahead, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler
from torch import nn


def plain_groups(net):
    return net.parameters()


def decay_groups(net):
    return param_groups_weight_decay(net, weight_decay=0.05)


def layer_groups(net):
    return param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.5)


def train(net, optimizer, data, clip):
    """Train as train.py does for an epoch after another; return the averaged model."""
    scheduler = CosineLRScheduler(optimizer, t_initial=3, warmup_t=1, warmup_lr_init=1e-4)
    scaler, average = NativeScaler(device="cpu"), ModelEmaV3(net, decay=0.9)
    for epoch in range(3):
        for x, y in zip(*(part.split(8) for part in data), strict=True):
            loss = nn.functional.mse_loss(net(x), y)
            scaler(loss, optimizer, clip_grad=0.2, clip_mode=clip, parameters=net.parameters())
            optimizer.zero_grad()
            average.update(net)
        if isinstance(optimizer, Lookahead):
            optimizer.sync_lookahead()
        scheduler.step(epoch + 1)
    return average.module


@pytest.mark.parametrize("ahead", [False, True], ids=["alone", "Lookahead"])
@pytest.mark.parametrize(
    ("groups", "clip"),
    [(plain_groups, "value"), (decay_groups, "norm"), (layer_groups, "agc")],
)
def test_trains_to_the_same_parameters(groups, clip, ahead, pair, model, data, same):
    nets, averages = [], []
    for make in pair.sides:
        net = model()
        optimizer = make(groups(net))
        if ahead:
            optimizer = Lookahead(optimizer, alpha=0.5, k=5)
        averages.append(train(net, optimizer, data, clip))
        nets.append(net)
    same(*nets)
    same(*averages)

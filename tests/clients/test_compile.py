"""torch.compile of the model with its own compiler, which needs one for C++."""

import torch
from torch import nn


def trained(net, make, data):
    compiled, optimizer = torch.compile(net), make(net.parameters())
    for x, y in zip(*(part.split(8) for part in data), strict=True):
        optimizer.zero_grad()
        nn.functional.mse_loss(compiled(x), y).backward()
        optimizer.step()
    return net


def test_trains_to_the_same_parameters(pair, model, data, same):
    same(*(trained(model(), make, data) for make in pair.sides))

"""swa_utils: torch's averaging of weights around our optimizers."""

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.optim import swa_utils


def trained(make, rooms):
    """Train, average from the fourth epoch on, as torch's page shows it; return the average."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.Linear(7, 1))
    x = torch.randn(32, 5)
    optimizer = make(net.parameters())
    average = rooms.AveragedModel(net, multi_avg_fn=rooms.get_ema_multi_avg_fn(0.9))
    slow = rooms.SWALR(optimizer, swa_lr=0.001, anneal_epochs=2)
    for epoch in range(6):
        for batch in x.split(8):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
        if epoch > 2:
            average.update_parameters(net)
            slow.step()
    rooms.update_bn(x.split(8), average)
    return average, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_averages_as_with_torchs_optimizer(name):
    ours, lr = trained(lambda params: getattr(optim, name)(params, lr=0.01), swa_utils)
    theirs, their_lr = trained(
        lambda params: getattr(torch.optim, name)(params, lr=0.01), torch.optim.swa_utils
    )
    assert lr == their_lr < 0.01
    expected = theirs.state_dict()
    assert expected["n_averaged"] == 3
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=2e-5, atol=2e-6)

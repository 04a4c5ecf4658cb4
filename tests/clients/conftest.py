"""What every client's test shares: pairs of optimizers to compare, a model and its data.

These tests need packages of their own (requirements.txt); `make test-clients` runs them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from steepest import optim
from steepest.formula import sign

WARNINGS = [
    "ignore:`torch.jit.:DeprecationWarning",  # torch's own, when torch.compile is first used
    "ignore:`isinstance.treespec, LeafSpec.:FutureWarning",  # Lightning's use of torch's pytree
    "ignore:The 'train_dataloader' does not have many workers",  # Lightning, with many processors
]


def pytest_configure(config: pytest.Config) -> None:
    for line in WARNINGS:
        config.addinivalue_line("filterwarnings", line)
    if torch.version.cuda is None:
        _declare_operators()


def _declare_operators() -> None:
    """Let a torchvision that was built for CUDA be imported beside a torch for the CPU.

    timm and torchmetrics import it. Its operators cannot be loaded then, and it stops at two of
    which it wants to say the shapes; no test calls them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # its operators live as long as it does


_KEPT: list[torch.library.Library] = []


def lion(p, g, exp_avg, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    beta1, beta2 = betas
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    p = (1 - lr * weight_decay) * p - lr * update
    return p, exp_avg


class Lion(optim.Optimizer, formula=lion):
    """A user's own optimizer, which torch does not have."""


class Pair(NamedTuple):
    """A class of ours and the one that it must equal, with the options of both."""

    ours: type[torch.optim.Optimizer]
    reference: type[torch.optim.Optimizer]
    options: dict[str, object]
    reference_options: dict[str, object]

    @property
    def sides(self) -> list[Callable[..., torch.optim.Optimizer]]:
        """Both, called with parameters and further options."""
        return [
            functools.partial(self.ours, **self.options),
            functools.partial(self.reference, **self.reference_options),
        ]


def namesakes(name: str, **options: object) -> object:
    """Pair our class of a name, whose kernel must serve, with torch's."""
    pair = Pair(getattr(optim, name), getattr(torch.optim, name), options, options)
    return pytest.param(pair, id=name)


PAIRS = [
    namesakes("SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    namesakes("AdamW", lr=0.01, weight_decay=0.1),
    namesakes("RMSprop", lr=0.01, momentum=0.5),
    pytest.param(Pair(Lion, Lion, {"lr": 0.01}, {"lr": 0.01, "fused": False}), id="Lion"),
]


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Two optimizers that must do the same."""
    return request.param


@pytest.fixture
def model() -> Callable[..., nn.Sequential]:
    """Make the same small model at every call, or one of other numbers to load into."""

    def make(seed: int = 1) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))

    return make


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Make 32 rows of features [32, 5] and targets [32, 1]."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(32, 5, generator=generator)
    return x, x.sum(1, keepdim=True).sin() + 0.1 * torch.randn(32, 1, generator=generator)


@pytest.fixture
def same(model: Callable[..., nn.Module]) -> Callable[[nn.Module, nn.Module], None]:
    """`same(net, twin)` asserts equal parameters, up to rounding, after a training."""

    def check(net: nn.Module, twin: nn.Module) -> None:
        trained = dict(twin.named_parameters())
        for name, p in net.named_parameters():
            torch.testing.assert_close(p, trained.pop(name), rtol=2e-5, atol=2e-6)
        assert not trained
        ends = zip(net.parameters(), model().parameters(), strict=True)
        assert not all(torch.equal(p, start) for p, start in ends), "nothing was trained"

    return check

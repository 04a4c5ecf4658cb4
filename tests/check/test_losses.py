"""SC303 to SC306: each wrong loss is named at its line, its mended twin is silent."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest.check import Finding, watch

torch_of = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=torch_of)
Y = X.sum(1)
CLASSES = torch.randint(4, (32,), generator=torch_of)
BITS = (X > 0).float()
IGNORED = torch.full((32,), -100)


class Parts:
    """Models with one, three and four outputs, and an update."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.one, self.three, self.four = (nn.Linear(3, n) for n in (1, 3, 4))
        every = [p for m in (self.one, self.three, self.four) for p in m.parameters()]
        self.optimizer = torch.optim.SGD(every, lr=0.01)

    def steps(self) -> Iterator[Callable[[Tensor], None]]:
        for _ in range(3):
            self.optimizer.zero_grad()
            yield functools.partial(Tensor.backward, retain_graph=True)
            self.optimizer.step()


def softmax_twice(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.cross_entropy(parts.four(X).softmax(1), CLASSES))  # SC303


def softmax_module_twice(parts: Parts) -> None:
    model = nn.Sequential(parts.four, nn.Softmax(dim=1))
    for backward in parts.steps():
        backward(nn.CrossEntropyLoss()(model(X), CLASSES))  # SC303


def softmax_of_images_twice(parts: Parts) -> None:
    for backward in parts.steps():
        logits = parts.four(X).view(8, 2, 2, 4).movedim(3, 1)
        backward(F.cross_entropy(logits.softmax(1), CLASSES.view(8, 2, 2)))  # SC303


def softmax_by_hand(parts: Parts) -> None:
    for backward in parts.steps():
        odds = parts.four(X).exp()
        backward(F.cross_entropy(odds / odds.sum(1, keepdim=True), CLASSES))  # SC303


def logits(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.cross_entropy(parts.four(X), CLASSES))
        centred = parts.four(X) - parts.four(X).mean(1, keepdim=True)
        backward(F.cross_entropy(centred + 0.25, CLASSES))  # which sums to 1
        backward(F.cross_entropy(parts.four(X) * 0 + 0.25, CLASSES))


def distilled(parts: Parts) -> None:
    teacher = X @ torch.ones(3, 4)
    for backward in parts.steps():
        backward(F.cross_entropy(parts.four(X), teacher.softmax(1)))


def wrong_only_where_nothing_is_learned(parts: Parts) -> None:
    logits(parts)
    with torch.no_grad():
        F.cross_entropy(parts.four(X).softmax(1), CLASSES)
        F.l1_loss(parts.one(X), Y)


def log_softmax_twice(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.cross_entropy(parts.four(X).log_softmax(1).view(-1, 4), CLASSES))  # SC304


def probabilities_in_nll(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.nll_loss(parts.four(X).softmax(1), CLASSES))  # SC304


def logits_in_nll(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.nll_loss(parts.four(X), CLASSES))  # SC304


def log_softmax(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.nll_loss(parts.four(X).log_softmax(1), CLASSES))


def reinforced(parts: Parts) -> None:
    advantage = Y.unsqueeze(1)
    for backward in parts.steps():
        chosen = torch.distributions.Categorical(logits=parts.four(X))
        backward(F.nll_loss(chosen.logits * advantage, CLASSES))
        F.cross_entropy(chosen.logits, CLASSES)


def sigmoid_twice(parts: Parts) -> None:
    for backward in parts.steps():
        chances = parts.three(X).sigmoid()
        backward(F.binary_cross_entropy_with_logits(chances, BITS))  # SC304


def sigmoid_once(parts: Parts) -> None:
    for backward in parts.steps():
        backward(F.binary_cross_entropy(parts.three(X).sigmoid(), BITS))
        F.binary_cross_entropy_with_logits(parts.three(X), BITS)


def column_against_row(parts: Parts) -> None:
    loss_fn = nn.HuberLoss()
    for backward in parts.steps():
        backward(loss_fn(parts.one(X), Y))  # SC305


def column_against_row_by_hand(parts: Parts) -> None:
    for backward in parts.steps():
        wrong = parts.one(X) - Y  # SC305
        backward((wrong**2).mean())


def row_against_column_by_hand(parts: Parts) -> None:
    column = Y.clone().unsqueeze(1)[torch.arange(32)]
    for backward in parts.steps():
        backward((column - parts.one(X).squeeze(1)).abs().sum() / 32)  # SC305


def row_against_a_models_column(parts: Parts) -> None:
    for backward in parts.steps():
        backward((Y - parts.one(X)).pow(2).mean().sqrt())  # SC305


def columns(parts: Parts) -> None:
    for backward in parts.steps():
        backward(((parts.one(X) - Y.unsqueeze(1)) ** 2).mean())
        backward(((parts.one(X).squeeze(1) - Y) ** 2).mean())
        backward(F.mse_loss(parts.one(X).squeeze(1), Y))


def all_pairs(parts: Parts) -> None:
    """An energy distance, and a ranking loss."""
    for backward in parts.steps():
        made = parts.one(X).squeeze(1)
        apart = (made.unsqueeze(1) - Y).abs().mean() - (made[:, None] - made).abs().mean() / 2
        backward(apart - (Y.unsqueeze(1) - made).abs().mean() / 9)
        backward((parts.one(X) - made).abs().mean())


def nearest_of_as_many(parts: Parts) -> None:
    for backward in parts.steps():
        backward((parts.one(X) - Y).abs().min(1).values.mean())


def all_ignored(parts: Parts) -> None:
    for backward in parts.steps():
        F.cross_entropy(parts.four(X), IGNORED)  # SC306
        backward(F.cross_entropy(parts.four(X), CLASSES))


def all_padding(parts: Parts) -> None:
    loss_fn = nn.NLLLoss(ignore_index=0)
    for backward in parts.steps():
        loss_fn(parts.four(X).log_softmax(1), torch.zeros_like(CLASSES))  # SC306
        backward(F.cross_entropy(parts.four(X), CLASSES))


def some_ignored(parts: Parts) -> None:
    for backward in parts.steps():
        kept = torch.where(CLASSES == 1, CLASSES, -100)
        backward(F.cross_entropy(parts.four(X), kept))
        backward(F.cross_entropy(parts.four(X), IGNORED, reduction="sum"))
        F.cross_entropy(parts.four(X), CLASSES, weight=torch.zeros(4))


WRONG = [
    (softmax_twice, "SC303"),
    (softmax_module_twice, "SC303"),
    (softmax_of_images_twice, "SC303"),
    (softmax_by_hand, "SC303"),
    (log_softmax_twice, "SC304"),
    (probabilities_in_nll, "SC304"),
    (logits_in_nll, "SC304"),
    (sigmoid_twice, "SC304"),
    (column_against_row, "SC305"),
    (column_against_row_by_hand, "SC305"),
    (row_against_column_by_hand, "SC305"),
    (row_against_a_models_column, "SC305"),
    (all_ignored, "SC306"),
    (all_padding, "SC306"),
]
RIGHT = [
    logits, distilled, wrong_only_where_nothing_is_learned, log_softmax, reinforced, sigmoid_once,
    columns, all_pairs, nearest_of_as_many, some_ignored,
]  # fmt: skip


def found(loop: Callable[[Parts], None]) -> list[Finding]:
    parts = Parts()
    with watch(parts.four, parts.optimizer) as watched:
        loop(parts)
    return watched.findings()


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_a_wrong_loss_is_named_at_its_line(loop: Callable[[Parts], None], code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code]
    assert findings[0].step == 0
    where = findings[0].where
    assert where is not None
    assert Path(where.file).read_text().splitlines()[where.line - 1].endswith(f"# {code}")
    begins = loop.__code__.co_firstlineno
    assert begins < where.line <= begins + 6


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_a_right_loss_is_silent(loop: Callable[[Parts], None]):
    assert found(loop) == []


def test_shapes_are_told():
    message = found(column_against_row_by_hand)[0].message
    assert "(32, 1) and (32,) is (32, 32)" in message


def test_a_later_loss_has_its_step():
    parts = Parts()
    with watch(parts.four) as watched:
        logits(parts)
        softmax_twice(parts)
    assert [finding.step for finding in watched.findings()] == [3]


def test_functional_transforms_pass():
    model = nn.Linear(3, 4)
    theirs = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, p, (x,)).softmax(-1), y)

    with watch() as watched:
        torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(theirs, X, CLASSES)
    assert watched.findings() == []


def test_subtraction_is_torchs_own_again():
    before = Tensor.__sub__
    with watch():
        assert Tensor.__sub__ is not before
        with watch():
            pass
        assert Tensor.__sub__ is not before
    assert Tensor.__sub__ is before


def test_subtraction_is_torchs_own_after_the_first_steps():
    before = Tensor.__sub__
    p = torch.ones(1, requires_grad=True)
    with watch():
        for _ in range(20):
            (p * 1).sum().backward()
        assert Tensor.__sub__ is before

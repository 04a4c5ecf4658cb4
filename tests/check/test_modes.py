"""SC301 and SC302: each wrong loop is named at its line, its mended twin is silent."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from steepest.check import Finding, watch

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
BATCHES = list(zip(X.split(16), Y.split(16), strict=True))
EPOCHS = 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 1)
    )


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def loss_of(model: nn.Module, x: Tensor = X, y: Tensor = Y) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in BATCHES:
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()


# ---- wrong loops ---------------------------------------------------------------------------------


def never_in_train_mode() -> None:
    model = net().eval()
    optimizer = sgd(model)
    for x, y in BATCHES:
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()  # SC301


def left_in_eval_mode() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        for x, y in BATCHES:
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()  # SC301
        model.eval()
        with torch.no_grad():
            loss_of(model)


def a_head_left_in_eval_mode() -> None:
    model = net()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    optimizer = sgd(model[4])
    for _ in range(EPOCHS):
        for x, y in BATCHES:
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()  # SC301
        model.eval()


def left_in_eval_mode_with_a_closure() -> None:
    model = net().eval()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(EPOCHS):
        optimizer.step(closure)  # SC301


def compiled_in_eval_mode() -> None:
    model = net().eval()
    optimizer = sgd(model)
    compiled = torch.compile(model, backend="eager")
    for x, y in BATCHES:
        optimizer.zero_grad()
        loss_of(compiled, x, y).backward()
        optimizer.step()  # SC301


def evaluated_in_train_mode() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        epoch(model, optimizer)
        with torch.no_grad():
            for x, _ in BATCHES:
                model(x)  # SC302


def evaluated_in_train_mode_at_the_end() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    epoch(model, sgd(model))

    @torch.inference_mode()
    def evaluate() -> None:
        for x, _ in BATCHES:
            model(x)  # SC302

    evaluate()


def evaluated_by_names_in_train_mode() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, *, x: Tensor) -> Tensor:
            return self.net(x)

    model = Named()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        for x, y in BATCHES:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x=x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, _ in BATCHES:
                model(x=x)  # SC302


def compiled_evaluated_in_train_mode() -> None:
    model = torch.compile(net(), backend="eager", fullgraph=True)
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        epoch(model, optimizer)
        with torch.no_grad():
            for x, _ in BATCHES:
                model(x)  # SC302


WRONG = [
    (never_in_train_mode, "SC301"),
    (left_in_eval_mode, "SC301"),
    (a_head_left_in_eval_mode, "SC301"),
    (left_in_eval_mode_with_a_closure, "SC301"),
    (compiled_in_eval_mode, "SC301"),
    (evaluated_in_train_mode, "SC302"),
    (evaluated_in_train_mode_at_the_end, "SC302"),
    (evaluated_by_names_in_train_mode, "SC302"),
    (compiled_evaluated_in_train_mode, "SC302"),
]


# ---- right ones ----------------------------------------------------------------------------------


def plain() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        model.train()
        epoch(model, optimizer)
        model.eval()
        with torch.no_grad():
            for x, y in BATCHES:
                loss_of(model, x, y)


def compiled() -> None:
    model = net()
    optimizer = sgd(model)
    fast = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(EPOCHS):
        model.train()
        epoch(fast, optimizer)
        model.eval()
        with torch.no_grad():
            for x, y in BATCHES:
                loss_of(fast, x, y)


def without_no_grad() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        model.train()
        epoch(model, optimizer)
        model.eval()
        loss_of(model)


def frozen_statistics() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        model.train()
        model[1].eval()
        epoch(model, optimizer)


def dropout_alone_in_train_mode() -> None:
    model = net().eval()
    model[3].train()
    epoch(model, sgd(model))


def nothing_with_two_modes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.0), nn.Linear(4, 1))
    model.eval()
    epoch(model, sgd(model))


def frozen_backbone_in_eval_mode() -> None:
    model = net().eval().requires_grad_(False)
    model[4] = nn.Linear(4, 1)
    epoch(model, sgd(model[4]))


def adversarial_examples() -> None:
    model = net()
    optimizer = sgd(model)
    for x, y in BATCHES * EPOCHS:
        model.eval()
        attacked = x.clone().requires_grad_()
        loss_of(model, attacked, y).backward()
        assert attacked.grad is not None
        attacked = (attacked + 0.1 * attacked.grad.sign()).detach()
        model.train()
        optimizer.zero_grad()
        loss_of(model, attacked, y).backward()
        optimizer.step()


def adversarial() -> None:
    maker = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    judge = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    making, judging = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
    always = torch.randn(32, 2)
    for _ in range(EPOCHS):
        for x, _ in BATCHES:
            judge.zero_grad()
            judge(x).mean().backward()
            fake = maker(torch.randn(16, 2))
            (-judge(fake.detach()).mean()).backward()
            judging.step()
            maker.zero_grad()
            judge(fake).mean().backward()
            making.step()
        with torch.no_grad():
            maker(always)


def mean_teacher() -> None:
    student = net()
    teacher = copy.deepcopy(student)
    optimizer = sgd(student)
    for _ in range(EPOCHS):
        with torch.no_grad():
            targets = [teacher(x) for x, _ in BATCHES]
        for (x, _), target in zip(BATCHES, targets, strict=True):
            optimizer.zero_grad()
            loss_of(student, x, target).backward()
            optimizer.step()
        with torch.no_grad():
            for slow, p in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(p, 0.1)


def own_targets() -> None:
    model = net()
    optimizer = sgd(model)
    for x, y in BATCHES * EPOCHS:
        with torch.no_grad():
            views = [model(x + noise * torch.randn_like(x)) for noise in (0.1, 0.2, 0.3, 0.4)]
        optimizer.zero_grad()
        loss_of(model, x, y + sum(views)).backward()
        optimizer.step()


def averaged_weights() -> None:
    model = net()
    optimizer, average = sgd(model), AveragedModel(model)
    for _ in range(EPOCHS):
        epoch(model, optimizer)
        average.update_parameters(model)
    update_bn(BATCHES, average)
    update_bn(BATCHES, model)


def monte_carlo_dropout() -> None:
    model = net()
    epoch(model, sgd(model))
    with torch.no_grad():
        for _ in range(2 * EPOCHS):
            for x, _ in BATCHES:
                model(x)


def monte_carlo_dropout_alone() -> None:
    model = net()
    epoch(model, sgd(model))
    with torch.no_grad():
        model.eval()
        model[3].train()
        for x, _ in BATCHES:
            model(x)


def one_batch_for_the_progress_bar() -> None:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        epoch(model, optimizer)
        with torch.no_grad():
            loss_of(model)


RIGHT = [
    plain, compiled, without_no_grad, frozen_statistics, dropout_alone_in_train_mode,
    nothing_with_two_modes,
    frozen_backbone_in_eval_mode, adversarial_examples, adversarial, mean_teacher, own_targets,
    averaged_weights, monte_carlo_dropout, monte_carlo_dropout_alone,
    one_batch_for_the_progress_bar,
]  # fmt: skip


def found(loop: Callable[[], None]) -> list[Finding]:
    with watch() as watched:
        loop()
    return watched.findings()


@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_a_mistake_is_named_at_its_line(loop: Callable[[], None], code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code]
    where = findings[0].where
    assert where is not None
    assert where.file == __file__
    assert Path(__file__).read_text().splitlines()[where.line - 1].endswith(f"# {code}")
    first = loop.__code__.co_firstlineno
    assert first < where.line < first + 25


@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_a_right_loop_is_silent(loop: Callable[[], None]):
    assert found(loop) == []


def test_modules_and_random_states_are_as_without_a_watch():
    def after(loop: Callable[[], None]) -> Tensor:
        torch.manual_seed(1)
        loop()
        return torch.random.get_rng_state()

    for loop in (plain, evaluated_in_train_mode, never_in_train_mode):
        bare = after(loop)
        with watch():
            assert torch.equal(after(loop), bare)
    assert not torch.nn.modules.module._has_any_global_hook()

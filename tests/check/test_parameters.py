"""SC201 to SC207: each wrong loop is named at its line, its mended twin is silent."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from steepest.check import Finding, watch

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
STEPS = 4


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.mse_loss(model(X), Y)


def sgd(*models: nn.Module, **given: float) -> torch.optim.SGD:
    parameters = [p for model in models for p in model.parameters()]
    return torch.optim.SGD(parameters, lr=0.01, **given)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


class Experts(nn.Module):
    """Three, of which the last is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[0](x) + self.experts[1](x)


# ---- wrong loops ---------------------------------------------------------------------------------


def of_another_model() -> None:
    model, other = mlp(), nn.Linear(3, 1)
    optimizer = sgd(other)
    for _ in range(STEPS):
        model.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC201


def of_a_copy() -> None:
    model = mlp()
    optimizer = sgd(model)
    model = copy.deepcopy(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC201


def of_an_older_model_later() -> None:
    model = mlp()
    optimizer = sgd(model)
    train(model, optimizer, 25)
    model = mlp()
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC201


def half_of_the_parameters() -> None:
    model = mlp()
    optimizer = sgd(model[2])
    for _ in range(STEPS):
        model.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC202


def half_of_the_parameters_with_a_closure() -> None:
    model = mlp()
    optimizer = torch.optim.LBFGS(model[2].parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)  # SC202


def one_of_the_experts() -> None:
    model = Experts()
    optimizer = sgd(model.experts[0], model.experts[2])
    for _ in range(STEPS):
        model.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC202


def all_frozen() -> None:
    model, head = mlp(), nn.Linear(4, 1)
    optimizer, other = sgd(model), sgd(head)
    model.requires_grad_(False)
    for _ in range(STEPS):
        other.zero_grad()
        nn.functional.mse_loss(head(model[:2](X)), Y).backward()
        optimizer.step()  # SC203
        other.step()


def new_head() -> None:
    model = mlp()
    optimizer = sgd(model)
    model[2] = nn.Linear(4, 1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC204


def new_head_later() -> None:
    model = mlp()
    optimizer = sgd(model)
    for step in range(80):
        if step == 30:
            model[2] = nn.Linear(4, 1)
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC204


def frozen_with_an_old_gradient() -> None:
    model = mlp()
    optimizer = sgd(model)
    train(model, optimizer)
    model[0].requires_grad_(False)
    for _ in range(STEPS):
        model[2].zero_grad()
        loss_of(model).backward()
        optimizer.step()  # SC205


def frozen_with_weight_decay() -> None:
    model = mlp()
    optimizer = sgd(model, weight_decay=0.1)
    train(model, optimizer)
    model[0].requires_grad_(False)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        loss_of(model).backward()
        optimizer.step()  # SC205


def state_of_other_shapes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    saved = sgd(model[0], model[1], momentum=0.9)
    train(model, saved)
    optimizer = sgd(model[1], model[0], momentum=0.9)
    optimizer.load_state_dict(saved.state_dict())  # SC206


def state_of_another_order() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    named = list(model.named_parameters())
    saved = torch.optim.Adam(named)
    train(model, saved)
    optimizer = torch.optim.Adam([*named[2:4], *named[:2], *named[4:]])
    optimizer.load_state_dict(saved.state_dict())  # SC206


def in_half_precision() -> None:
    model = mlp()
    optimizer = sgd(model, momentum=0.9)
    train(model, optimizer)
    model.bfloat16()
    optimizer.zero_grad()
    nn.functional.mse_loss(model(X.bfloat16()), Y.bfloat16()).backward()
    optimizer.step()  # SC207


def in_half_precision_later() -> None:
    model = mlp()
    optimizer = sgd(model, momentum=0.9)
    train(model, optimizer, 30)
    model.bfloat16()
    optimizer.zero_grad()
    nn.functional.mse_loss(model(X.bfloat16()), Y.bfloat16()).backward()
    optimizer.step()  # SC207


def in_half_precision_after_loading() -> None:
    model = mlp()
    saved, optimizer = sgd(model, momentum=0.9), sgd(model, momentum=0.9)
    train(model, saved)
    optimizer.load_state_dict(saved.state_dict())
    model.bfloat16()
    nn.functional.mse_loss(model(X.bfloat16()), Y.bfloat16()).backward()
    optimizer.step()  # SC207


WRONG = [
    (of_another_model, "SC201"),
    (of_a_copy, "SC201"),
    (of_an_older_model_later, "SC201"),
    (half_of_the_parameters, "SC202"),
    (half_of_the_parameters_with_a_closure, "SC202"),
    (one_of_the_experts, "SC202"),
    (all_frozen, "SC203"),
    (new_head, "SC204"),
    (new_head_later, "SC204"),
    (frozen_with_an_old_gradient, "SC205"),
    (frozen_with_weight_decay, "SC205"),
    (state_of_other_shapes, "SC206"),
    (state_of_another_order, "SC206"),
    (in_half_precision, "SC207"),
    (in_half_precision_later, "SC207"),
    (in_half_precision_after_loading, "SC207"),
]


# ---- right ones ----------------------------------------------------------------------------------


def plain() -> None:
    model = mlp()
    train(model, sgd(model, momentum=0.9, weight_decay=0.1), 80)


def frozen_backbone() -> None:
    model = mlp().requires_grad_(False)
    model[2] = nn.Linear(4, 1)
    train(model, sgd(model[2], weight_decay=0.1))


def frozen_backbone_in_the_optimizer() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    train(model, sgd(model, weight_decay=0.1))


def low_rank_adapter() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp().requires_grad_(False)
            self.down, self.up = nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.up(self.down(x))

    model = Adapted()
    train(model, torch.optim.AdamW(p for p in model.parameters() if p.requires_grad))


def tied_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    train(model, sgd(model))


def mean_teacher() -> None:
    student = mlp()
    teacher = copy.deepcopy(student)
    optimizer = sgd(student)
    for _ in range(STEPS):
        with torch.no_grad():
            target = teacher(X)
        optimizer.zero_grad()
        (loss_of(student) + nn.functional.mse_loss(student(X), target)).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, p in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(p, 0.1)


def experts() -> None:
    model = Experts()
    train(model, torch.optim.Adam(model.parameters()))


def adversarial() -> None:
    maker, judge = nn.Linear(2, 3), nn.Linear(3, 1)
    making, judging = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
    for _ in range(STEPS):
        judge.zero_grad()
        judge(X).mean().backward()
        fake = maker(torch.randn(32, 2))
        (-judge(fake.detach()).mean()).backward()
        judging.step()
        maker.zero_grad()
        judge(fake).mean().backward()
        making.step()


def adversarial_examples() -> None:
    model = mlp()
    optimizer = sgd(model)
    for _ in range(STEPS):
        attacked = X.clone().requires_grad_()
        nn.functional.mse_loss(model(attacked), Y).backward()
        assert attacked.grad is not None
        attacked = (attacked + 0.1 * attacked.grad.sign()).detach()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(attacked), Y).backward()
        optimizer.step()


def two_phases() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    train(model, sgd(model[2]))
    model.requires_grad_(True)
    train(model, sgd(model))


def meta_learning() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(STEPS):
        slow = dict(model.named_parameters())
        inner = nn.functional.mse_loss(functional_call(model, slow, (X,)), Y)
        gradients = torch.autograd.grad(inner, list(slow.values()), create_graph=True)
        pairs = zip(slow.items(), gradients, strict=True)
        fast = {name: p - 0.1 * g for (name, p), g in pairs}
        optimizer.zero_grad()
        nn.functional.mse_loss(functional_call(model, fast, (X,)), Y).backward()
        optimizer.step()


def actor_and_critic() -> None:
    actor, critic = nn.Linear(3, 2), nn.Linear(5, 1)
    acting, judging = sgd(actor), sgd(critic)
    for _ in range(STEPS):
        judging.zero_grad()
        with torch.no_grad():
            action = actor(X)
        nn.functional.mse_loss(critic(torch.cat([X, action], 1)), Y).backward()
        judging.step()
        acting.zero_grad()
        (-critic(torch.cat([X, actor(X)], 1)).mean()).backward()
        acting.step()


def an_image_is_optimized() -> None:
    model = mlp()
    image = X.clone().requires_grad_()
    optimizer = torch.optim.Adam([image])
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(image), Y).backward()
        optimizer.step()


def a_loss_is_a_model() -> None:
    model, perceptual = mlp(), nn.Linear(1, 2)
    optimizer = sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(perceptual(model(X)), perceptual(Y)).backward()
        optimizer.step()


def half_by_hand() -> None:
    model = mlp()
    optimizer = sgd(model[2])
    for _ in range(STEPS):
        model.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        for p in model[0].parameters():
            assert p.grad is not None
            p.data -= 0.01 * p.grad


def half_with_old_gradients() -> None:
    model = mlp()
    loss_of(model).backward()
    optimizer = sgd(model[2])
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model[2](model[:2](X).detach()), Y).backward()
        optimizer.step()


def half_by_a_later_optimizer() -> None:
    model = mlp()
    often = sgd(model[2])
    train(model, often, 1)
    rarely = sgd(model[0])
    for step in range(2 * STEPS):
        often.zero_grad()
        loss_of(model).backward()
        often.step()
        if step % STEPS == STEPS - 1:
            rarely.step()
            rarely.zero_grad()


def frozen_with_a_gradient_of_zeros() -> None:
    model = mlp()
    optimizer = sgd(model)
    train(model, optimizer)
    model[0].requires_grad_(False)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        loss_of(model).backward()
        optimizer.step()


def state_in_higher_precision() -> None:
    model = mlp().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, foreach=False)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p, dtype=torch.float32)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X.bfloat16()), Y.bfloat16()).backward()
        optimizer.step()


def a_free_parameter() -> None:
    model, scale = mlp(), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X) * scale, Y).backward()
        optimizer.step()


def evolution() -> None:
    model = mlp().requires_grad_(False)
    optimizer = sgd(model, momentum=0.9)
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()


def higher_precision() -> None:
    model = mlp().bfloat16()
    kept = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.Adam(kept)
    for _ in range(STEPS):
        model.zero_grad()
        nn.functional.mse_loss(model(X.bfloat16()), Y.bfloat16()).backward()
        for p, high in zip(model.parameters(), kept, strict=True):
            assert p.grad is not None
            high.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for p, high in zip(model.parameters(), kept, strict=True):
                p.copy_(high)


def resumed() -> None:
    model = mlp()
    saved = torch.optim.Adam(model.named_parameters())
    train(model, saved)
    optimizer = torch.optim.Adam(model.named_parameters())
    optimizer.load_state_dict(saved.state_dict())
    train(model, optimizer)


def double_precision_with_its_state() -> None:
    model = mlp()
    optimizer = sgd(model, momentum=0.9)
    train(model, optimizer)
    model.double()
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X.double()), Y.double()).backward()
        optimizer.step()


def in_the_backward() -> None:
    model = mlp()
    each = {p: torch.optim.SGD([p], lr=0.01) for p in model.parameters()}

    def update(p: Tensor) -> None:
        each[p].step()
        each[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    for _ in range(STEPS):
        loss_of(model).backward()


def compiled() -> None:
    model = mlp()
    train(torch.compile(model, backend="eager", fullgraph=True), sgd(model))


RIGHT = [
    plain, frozen_backbone, frozen_backbone_in_the_optimizer, low_rank_adapter, tied_weights,
    mean_teacher, experts, adversarial, adversarial_examples, two_phases, meta_learning,
    actor_and_critic, an_image_is_optimized, a_loss_is_a_model, half_by_hand,
    half_with_old_gradients,
    half_by_a_later_optimizer, frozen_with_a_gradient_of_zeros, state_in_higher_precision,
    a_free_parameter,
    evolution, higher_precision, resumed, double_precision_with_its_state, in_the_backward,
    compiled,
]  # fmt: skip


def found(loop: Callable[[], None]) -> list[Finding]:
    with watch() as watched:
        loop()
    return watched.findings()


@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_a_mistake_is_named_at_its_line(loop: Callable[[], None], code: str):
    findings = [finding for finding in found(loop) if finding.code.startswith("SC2")]
    assert [finding.code for finding in findings] == [code]
    where = findings[0].where
    assert where is not None
    assert where.file == __file__
    blamed = Path(__file__).read_text().splitlines()[where.line - 1]
    assert blamed.endswith(f"# {code}")
    first = loop.__code__.co_firstlineno
    assert first < where.line < first + 20


@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_a_right_loop_is_silent(loop: Callable[[], None]):
    assert found(loop) == []


def test_parameters_are_named_and_may_be_expected():
    model = mlp()
    for expected, told in (((), 1), ("0.*", 0), (["0.weight"], 1), (["0.weight", "0.bias"], 0)):
        with watch(model, expect_frozen=expected) as watched:
            half_of(model)
        assert len(watched.findings()) == told
        for finding in watched.findings():
            assert "0.bias of Sequential" in finding.message
            assert ("0.weight" in finding.message) == (expected == ())


def half_of(model: nn.Sequential) -> None:
    optimizer = sgd(model[2])
    for _ in range(STEPS):
        model.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def test_a_copy_is_told_from_another_model():
    assert "a copy" in found(of_a_copy)[-1].message
    assert "another model" in found(of_another_model)[-1].message

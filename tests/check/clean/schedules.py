"""Schedules of the learning rate, each stepped where it belongs."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=GENERATOR)
Y = X.sum(1, keepdim=True)
LOADER = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(X, Y), batch_size=4, shuffle=True
)


def _parts(lr=0.1):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def _epoch(model, optimizer, each_batch=lambda: None):
    total = 0.0
    for x, y in LOADER:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        each_batch()
        total += loss.item()
    return total / len(LOADER)


def each_epoch(tell):
    schedules = (
        lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 4], gamma=0.1),
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=6, power=2.0),
        lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=2),
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=3),
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2),
    )
    for make in schedules:
        model, optimizer = _parts()
        scheduler = make(optimizer)
        tell(model, optimizer)
        for _ in range(6):
            _epoch(model, optimizer)
            scheduler.step()


def each_batch(tell):
    total = 5 * len(LOADER)
    schedules = (
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=total),
        lambda o: lr_scheduler.OneCycleLR(o, 0.2, epochs=5, steps_per_epoch=len(LOADER)),
        lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=10),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=total),
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=total),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 10)),
        lambda o: lr_scheduler.StepLR(o, step_size=2 * len(LOADER)),
    )
    for make in schedules:
        model, optimizer = _parts()
        scheduler = make(optimizer)
        tell(model, optimizer)
        for _ in range(5):
            _epoch(model, optimizer, scheduler.step)


def warm_up_from_0(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    tell(model, optimizer)
    for _ in range(4):
        _epoch(model, optimizer, scheduler.step)


def warm_up_then_cosine(tell):
    model, optimizer = _parts()
    total = 4 * len(LOADER)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5),
            lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - 5),
        ],
        milestones=[5],
    )
    tell(model, optimizer)
    for _ in range(4):
        _epoch(model, optimizer, scheduler.step)


def warm_up_by_batch_and_steps_by_epoch(tell):
    model, optimizer = _parts()
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=len(LOADER))
    by_epoch = lr_scheduler.MultiStepLR(optimizer, milestones=[3, 5])
    tell(model, optimizer)
    for epoch in range(6):
        _epoch(model, optimizer, warm_up.step if epoch == 0 else lambda: None)
        by_epoch.step()


def chained(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=2),
            lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
        ]
    )
    tell(model, optimizer)
    for _ in range(5):
        _epoch(model, optimizer)
        scheduler.step()


def two_schedulers_in_a_row(tell):
    model, optimizer = _parts()
    schedulers = [
        lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
        lr_scheduler.MultiStepLR(optimizer, milestones=[30, 80], gamma=0.1),
    ]
    tell(model, optimizer)
    for _ in range(5):
        _epoch(model, optimizer)
        for scheduler in schedulers:
            scheduler.step()


def restarts_by_fractions(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=1)
    tell(model, optimizer)
    for epoch in range(6):
        for number, (x, y) in enumerate(LOADER):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step(epoch + number / len(LOADER))


def restarts_by_batch(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5)
    tell(model, optimizer)
    for _ in range(6):
        _epoch(model, optimizer, scheduler.step)


def short_cycles(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2, mode="triangular2")
    tell(model, optimizer)
    for _ in range(6):
        _epoch(model, optimizer, scheduler.step)


def cosine_that_swings_on_purpose(tell):
    """T_max of one epoch, stepped by batch: lr goes down and up again, a cycle for an ensemble."""
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(LOADER))
    tell(model, optimizer)
    for _ in range(4):
        _epoch(model, optimizer, scheduler.step)


def on_a_plateau(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    tell(model, optimizer)
    first = F.mse_loss(model(X), Y).item()
    scheduler.step(first)
    for _ in range(6):
        scheduler.step(_epoch(model, optimizer))


def stopped_early(tell):
    """A schedule for a hundred epochs, and a stop after four."""
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    tell(model, optimizer)
    best, waited = float("inf"), 0
    for epoch in range(100):
        loss = _epoch(model, optimizer)
        scheduler.step()
        waited = 0 if loss < 0.5 * best else waited + 1
        best = min(best, loss)
        if waited == 2 or epoch == 7:
            break


def scaler_skips_the_first_steps(tell):
    """The scaler skips two updates, and the schedule waits for it, as PyTorch's forum tells."""
    model, optimizer = _parts()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=40)
    tell(model, optimizer)
    for _ in range(3):
        for number, (x, y) in enumerate(LOADER):
            optimizer.zero_grad()
            scaler.scale(F.mse_loss(model(x), y)).backward()
            if number < 2:
                model[0].weight.grad[0] = torch.inf
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= before:
                scheduler.step()


def of_an_accumulating_loop(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=16)
    tell(model, optimizer)
    for _ in range(4):
        for number, (x, y) in enumerate(LOADER):
            (F.mse_loss(model(x), y) / 2).backward()
            if number % 2:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


def of_two_optimizers():
    models = [_parts(), _parts()]
    schedulers = [lr_scheduler.StepLR(optimizer, 2) for _, optimizer in models]
    for _ in range(5):
        for model, optimizer in models:
            _epoch(model, optimizer)
        for scheduler in schedulers:
            scheduler.step()


def resumed(tell):
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(3):
        _epoch(model, optimizer)
        scheduler.step()
    saved = [part.state_dict() for part in (model, optimizer, scheduler)]
    model, optimizer = _parts()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for part, state in zip((model, optimizer, scheduler), saved, strict=True):
        part.load_state_dict(state)
    tell(model, optimizer)
    for _ in range(3):
        _epoch(model, optimizer)
        scheduler.step()


def lr_goes_to_0(tell):
    """Nothing moves in the last epochs, as lr is 0 by then."""
    model, optimizer = _parts()
    scheduler = lr_scheduler.PolynomialLR(optimizer, total_iters=3)
    tell(model, optimizer)
    for _ in range(5):
        _epoch(model, optimizer)
        scheduler.step()


def by_validation_rounds(tell):
    """Steps counted in updates; each round of some updates ends in a schedule step."""
    model, optimizer = _parts()
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
    tell(model, optimizer)
    updates = 0
    while updates < 40:
        for x, y in LOADER:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            updates += 1
            if updates % 5 == 0:
                scheduler.step()

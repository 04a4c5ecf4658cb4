"""Averages of weights, teachers and students, and two views of one input."""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 6, generator=GENERATOR)
Y = X.sum(1, keepdim=True)
CLASSES = torch.randint(4, (64,), generator=GENERATOR)


def _net(out=1):
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, out)
    )


def _batches(targets=Y):
    return list(zip(X.split(16), targets.split(16), strict=True))


def ema_by_hand(tell):
    model = _net()
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches() * 2:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                shadow[name].mul_(0.9).add_(p, alpha=0.1)


def evaluated_with_averaged_weights(tell):
    """The average's weights are put in for the evaluation, and the trained ones back after."""
    model = _net()
    shadow = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for _ in range(3):
        model.train()
        for x, y in _batches():
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            torch._foreach_lerp_(shadow, [p.detach() for p in model.parameters()], 0.1)
        kept = [p.detach().clone() for p in model.parameters()]
        model.eval()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), shadow)
            assert model(X).isfinite().all()
            torch._foreach_copy_(list(model.parameters()), kept)


def averaged_model(tell):
    model = _net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for _ in range(3):
        model.train()
        for x, y in _batches():
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            average.update_parameters(model)
        average.eval()
        with torch.no_grad():
            assert average(X).isfinite().all()


def stochastic_weight_averaging(tell):
    model = _net()
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    constant = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    tell(model, optimizer)
    for epoch in range(8):
        for x, y in _batches():
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        if epoch < 4:
            scheduler.step()
        else:
            average.update_parameters(model)
            constant.step()
    update_bn(X.split(16), average)
    average.eval()
    with torch.no_grad():
        assert average(X).isfinite().all()


def lookahead(tell):
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slow = [p.detach().clone() for p in model.parameters()]
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 4):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        if number % 5 == 4:
            with torch.no_grad():
                for p, s in zip(model.parameters(), slow, strict=True):
                    s += 0.5 * (p - s)
                    p.copy_(s)


class _Lookahead(torch.optim.Optimizer):
    """An optimizer around another one, whose groups it shares."""

    def __init__(self, base, every=5):
        self.base, self.every, self.count = base, every, 0
        super().__init__(base.param_groups, {})
        self.slow = {p: p.detach().clone() for g in base.param_groups for p in g["params"]}

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.base.step(closure)
        self.count += 1
        if self.count % self.every == 0:
            for p, s in self.slow.items():
                p.copy_(s.lerp_(p, 0.5))
        return loss


def lookahead_around_an_optimizer():
    model = _net()
    optimizer = _Lookahead(torch.optim.Adam(model.parameters()))
    for x, y in _batches() * 4:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


class _Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization, as its best known implementation is used."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        self.moves = []
        every = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in every]).norm()
        for p in every:
            self.moves.append((p, 0.05 * p.grad / (norm + 1e-12)))
            p += self.moves[-1][1]
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p, move in self.moves:
            p -= move
        self.base.step()
        self.zero_grad()


def sharpness_aware():
    model = _net()
    optimizer = _Sam(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    for x, y in _batches() * 2:
        F.mse_loss(model(x), y).backward()
        optimizer.first_step()
        F.mse_loss(model(x), y).backward()
        optimizer.second_step()


def mean_teacher(tell):
    student = _net(4)
    teacher = copy.deepcopy(student)
    for p in teacher.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    tell(student, optimizer)
    for x, y in _batches(CLASSES) * 2:
        with torch.no_grad():
            wanted = teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        logits = student(x + 0.1 * torch.randn_like(x))
        loss = F.cross_entropy(logits[:8], y[:8]) + F.mse_loss(logits.softmax(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.lerp_(s, 0.05)


def distillation(tell):
    teacher, student = _net(4).eval(), nn.Linear(6, 4)
    optimizer = torch.optim.Adam(student.parameters())
    tell(student, optimizer)
    for x, y in _batches(CLASSES):
        with torch.no_grad():
            wanted = teacher(x)
        logits = student(x)
        soft = F.kl_div(
            F.log_softmax(logits / 2, 1), F.softmax(wanted / 2, 1), reduction="batchmean"
        )
        optimizer.zero_grad()
        (4 * soft + F.cross_entropy(logits, y)).backward()
        optimizer.step()


def distillation_of_soft_targets(tell):
    teacher, student = _net(4).eval(), nn.Linear(6, 4)
    optimizer = torch.optim.Adam(student.parameters())
    tell(student, optimizer)
    for x, _ in _batches(CLASSES):
        with torch.inference_mode():
            wanted = teacher(x).softmax(1)
        optimizer.zero_grad()
        F.cross_entropy(student(x), wanted.clone()).backward()
        optimizer.step()


def teacher_first_and_then_student():
    teacher, student = _net(4), nn.Linear(6, 4)
    optimizer = torch.optim.Adam(teacher.parameters())
    for x, y in _batches(CLASSES):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    teacher.eval()
    optimizer = torch.optim.Adam(student.parameters())
    for x, _ in _batches(CLASSES):
        with torch.no_grad():
            wanted = teacher(x)
        optimizer.zero_grad()
        F.mse_loss(student(x), wanted).backward()
        optimizer.step()


def byol():
    online, predictor = _net(4), nn.Linear(4, 4)
    target = copy.deepcopy(online)
    learned = [*online.parameters(), *predictor.parameters()]
    optimizer = torch.optim.Adam(learned)
    for x, _ in _batches() * 2:
        views = [x + 0.1 * torch.randn_like(x) for _ in range(2)]
        with torch.no_grad():
            wanted = [target(view) for view in views]
        made = [predictor(online(view)) for view in views]
        loss = -F.cosine_similarity(made[0], wanted[1]).mean()
        loss = loss - F.cosine_similarity(made[1], wanted[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, o in zip(target.parameters(), online.parameters(), strict=True):
                t.mul_(0.99).add_(o, alpha=0.01)


def simsiam(tell):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.predictor = _net(4), nn.Linear(4, 4)

        def forward(self, a, b):
            first, second = self.encoder(a), self.encoder(b)
            return self.predictor(first), self.predictor(second), first.detach(), second.detach()

    model = Siamese()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    for x, _ in _batches():
        made, other, first, second = model(x, x + 0.1 * torch.randn_like(x))
        loss = -(F.cosine_similarity(made, second) + F.cosine_similarity(other, first)).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def contrastive(tell):
    model = _net(4)
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, _ in _batches():
        a, b = (F.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1) for _ in range(2))
        logits = a @ b.T / 0.1
        labels = torch.arange(len(x))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def contrastive_with_a_queue(tell):
    """MoCo: a key encoder that follows by momentum, and a queue of old keys."""
    query = _net(4)
    key = copy.deepcopy(query).requires_grad_(False)
    queue = F.normalize(torch.randn(32, 4), dim=1)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.05)
    tell(query, optimizer)
    for x, _ in _batches() * 2:
        q = F.normalize(query(x), dim=1)
        with torch.no_grad():
            for k, p in zip(key.parameters(), query.parameters(), strict=True):
                k.lerp_(p, 0.01)
            keys = F.normalize(key(x + 0.1 * torch.randn_like(x)), dim=1)
        logits = torch.cat([(q * keys).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.1
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long)).backward()
        optimizer.step()
        queue = torch.cat([keys, queue])[:32]


def triplets(tell):
    model = _net(4)
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    loss_fn = nn.TripletMarginLoss()
    for x, _ in _batches():
        near, far = x + 0.1 * torch.randn_like(x), x.roll(1, 0)
        optimizer.zero_grad()
        loss_fn(model(x), model(near), model(far)).backward()
        optimizer.step()


def siamese_with_labels(tell):
    model = _net(4)
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches(CLASSES):
        apart = F.pairwise_distance(model(x), model(x.roll(1, 0)))
        same = (y == y.roll(1)).float()
        loss = (same * apart**2 + (1 - same) * F.relu(1 - apart) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

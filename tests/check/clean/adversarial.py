"""Networks that play against each other, and inputs that are optimized."""

import torch
from torch import nn
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=GENERATOR)
CLASSES = (X.sum(1) > 0).long()
IMAGES = torch.rand(16, 3, 8, 8, generator=GENERATOR)


def _generator():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def _critic():
    return nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def _classifier():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )


def dcgan():
    """PyTorch's tutorial: two backwards of the critic, then one through it for the generator."""
    makes, judges = _generator(), nn.Sequential(_critic(), nn.Sigmoid())
    criterion = nn.BCELoss()
    of_judge = torch.optim.Adam(judges.parameters(), lr=0.01, betas=(0.5, 0.999))
    of_maker = torch.optim.Adam(makes.parameters(), lr=0.01, betas=(0.5, 0.999))
    for _ in range(6):
        for real in X.split(16):
            judges.zero_grad()
            label = torch.full((len(real),), 1.0)
            loss = criterion(judges(real).view(-1), label)
            loss.backward()
            fake = makes(torch.randn(len(real), 2))
            label.fill_(0.0)
            criterion(judges(fake.detach()).view(-1), label).backward()
            of_judge.step()
            makes.zero_grad()
            label.fill_(1.0)
            criterion(judges(fake).view(-1), label).backward()
            of_maker.step()


def gan_with_zero_grad_of_optimizers():
    makes, judges = _generator(), _critic()
    of_maker = torch.optim.Adam(makes.parameters(), lr=0.01)
    of_judge = torch.optim.Adam(judges.parameters(), lr=0.01)
    loss_fn = nn.BCEWithLogitsLoss()
    for real in X.split(16) * 2:
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        of_maker.zero_grad()
        fake = makes(torch.randn(len(real), 2))
        loss_fn(judges(fake), ones).backward()
        of_maker.step()
        of_judge.zero_grad()
        loss = (loss_fn(judges(real), ones) + loss_fn(judges(fake.detach()), zeros)) / 2
        loss.backward()
        of_judge.step()


def gan_with_the_critic_frozen_for_the_generator():
    makes, judges = _generator(), _critic()
    of_maker = torch.optim.SGD(makes.parameters(), lr=0.01)
    of_judge = torch.optim.SGD(judges.parameters(), lr=0.01)
    for real in X.split(16) * 2:
        fake = makes(torch.randn(len(real), 2))
        judges.requires_grad_(True)
        of_judge.zero_grad()
        both = judges(torch.cat([real, fake.detach()]))
        (F.softplus(-both[: len(real)]).mean() + F.softplus(both[len(real) :]).mean()).backward()
        of_judge.step()
        judges.requires_grad_(False)
        of_maker.zero_grad()
        F.softplus(-judges(fake)).mean().backward()
        of_maker.step()


def conditional_gan_with_generated_batches_under_no_grad():
    makes, judges = _generator(), _critic()
    of_maker = torch.optim.Adam(makes.parameters(), lr=0.01)
    of_judge = torch.optim.Adam(judges.parameters(), lr=0.01)
    for real in X.split(16) * 2:
        with torch.no_grad():
            fake = makes(torch.randn(len(real), 2))
        of_judge.zero_grad()
        (F.relu(1 - judges(real)).mean() + F.relu(1 + judges(fake)).mean()).backward()
        of_judge.step()
        of_maker.zero_grad()
        (-judges(makes(torch.randn(len(real), 2))).mean()).backward()
        of_maker.step()


def wasserstein_gan():
    """Several updates of the critic, with clipped weights, for one of the generator."""
    makes, judges = _generator(), _critic()
    of_maker = torch.optim.RMSprop(makes.parameters(), lr=5e-3)
    of_judge = torch.optim.RMSprop(judges.parameters(), lr=5e-3)
    for number, real in enumerate(X.split(8) * 2):
        of_judge.zero_grad()
        fake = makes(torch.randn(len(real), 2)).detach()
        loss = judges(fake).mean() - judges(real).mean()
        loss.backward()
        of_judge.step()
        for p in judges.parameters():
            p.data.clamp_(-0.1, 0.1)
        if number % 5 == 4:
            of_maker.zero_grad()
            (-judges(makes(torch.randn(len(real), 2))).mean()).backward()
            of_maker.step()


def wasserstein_gan_with_penalty():
    makes, judges = _generator(), _critic()
    of_maker = torch.optim.Adam(makes.parameters(), lr=1e-3, betas=(0.0, 0.9))
    of_judge = torch.optim.Adam(judges.parameters(), lr=1e-3, betas=(0.0, 0.9))
    for number, real in enumerate(X.split(8) * 2):
        fake = makes(torch.randn(len(real), 2)).detach()
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        score = judges(between)
        (slope,) = torch.autograd.grad(
            score, between, torch.ones_like(score), create_graph=True, retain_graph=True
        )
        penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
        of_judge.zero_grad()
        (judges(fake).mean() - judges(real).mean() + 10 * penalty).backward()
        of_judge.step()
        if number % 3 == 0:
            of_maker.zero_grad()
            (-judges(makes(torch.randn(len(real), 2))).mean()).backward()
            of_maker.step()


def cycle_gan():
    """One optimizer of two generators, by itertools.chain, and one for each critic."""
    forth, back = nn.Linear(4, 4), nn.Linear(4, 4)
    judges = [_critic(), _critic()]
    of_makers = torch.optim.Adam([*forth.parameters(), *back.parameters()], lr=1e-3)
    of_judges = [torch.optim.Adam(judge.parameters(), lr=1e-3) for judge in judges]
    for a in X.split(16) * 2:
        b = a.flip(1) + 1
        fake_b, fake_a = forth(a), back(b)
        for judge in judges:
            judge.requires_grad_(False)
        of_makers.zero_grad()
        cycle = F.l1_loss(back(fake_b), a) + F.l1_loss(forth(fake_a), b)
        fooled = (judges[0](fake_a) - 1).pow(2).mean() + (judges[1](fake_b) - 1).pow(2).mean()
        (10 * cycle + fooled).backward()
        of_makers.step()
        for judge, optimizer, real, fake in zip(
            judges, of_judges, (a, b), (fake_a, fake_b), strict=True
        ):
            judge.requires_grad_(True)
            optimizer.zero_grad()
            loss = (judge(real) - 1).pow(2).mean() + judge(fake.detach()).pow(2).mean()
            loss.backward()
            optimizer.step()


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned around."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


def domain_adversarial(tell):
    model = nn.ModuleDict(
        {"features": nn.Linear(4, 8), "label": nn.Linear(8, 2), "domain": nn.Linear(8, 2)}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        hidden = model["features"](torch.cat([x, x + 1])).relu()
        domain = torch.arange(2).repeat_interleave(len(x))
        loss = F.cross_entropy(model["label"](hidden[: len(x)]), y)
        loss = loss + F.cross_entropy(model["domain"](_Reversed.apply(hidden)), domain)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fast_gradient_sign(tell):
    model = _classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in zip(X.split(16) * 2, CLASSES.split(16) * 2, strict=True):
        x = x.clone().requires_grad_()
        F.cross_entropy(model(x), y).backward()
        moved = (x + 0.1 * x.grad.sign()).detach()
        optimizer.zero_grad()
        F.cross_entropy(model(moved), y).backward()
        optimizer.step()


def projected_gradient_descent(tell):
    """The attack looks at the model in eval mode; the update is in train mode."""
    model = _classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in zip(X.split(16) * 2, CLASSES.split(16) * 2, strict=True):
        model.eval()
        moved = x + 0.01 * torch.randn_like(x)
        for _ in range(4):
            moved = moved.detach().requires_grad_()
            loss = F.cross_entropy(model(moved), y)
            (slope,) = torch.autograd.grad(loss, moved)
            moved = x + (moved + 0.05 * slope.sign() - x).clamp(-0.1, 0.1)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(moved.detach()), y).backward()
        optimizer.step()


def free_adversarial_training(tell):
    """Each batch is replayed; one backward serves the model and the attack."""
    model = _classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    shift = torch.zeros(16, 4)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        for _ in range(3):
            moved = shift.clone().requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(model(x + moved), y).backward()
            optimizer.step()
            shift = (shift + 0.1 * moved.grad.sign()).clamp(-0.2, 0.2)


def style_transfer():
    """PyTorch's tutorial: LBFGS on the image, the network frozen in eval mode."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    network.requires_grad_(False)
    content, style = IMAGES[:1], IMAGES[1:2]
    image = content.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([image], max_iter=5)

    def gram(x):
        flat = network(x).flatten(2)
        return flat @ flat.mT / flat.numel()

    def closure():
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = F.mse_loss(network(image), network(content))
        loss = loss + 100 * F.mse_loss(gram(image), gram(style))
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)


def image_optimized_with_the_network_not_frozen():
    """The network gets gradients, too, which nobody uses."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    image = nn.Parameter(IMAGES[:1].clone())
    optimizer = torch.optim.Adam([image], lr=0.05)
    for _ in range(8):
        optimizer.zero_grad()
        (-network(image).mean()).backward()
        optimizer.step()


def deep_dream():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    image = IMAGES[:1].clone().requires_grad_()
    for _ in range(5):
        network(image).norm().backward()
        with torch.no_grad():
            image += 0.1 * image.grad / image.grad.abs().mean()
            image.grad.zero_()
        network.zero_grad()


def latent_inverted():
    """A code of a generator that is trained and in eval mode is searched for an image."""
    makes = _generator().eval()
    code = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([code], lr=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        F.mse_loss(makes(code), X[:1]).backward()
        optimizer.step()

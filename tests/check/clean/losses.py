"""Losses, written as they should be, among them those that look like a mistake and are none."""

import torch
from torch import nn
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=GENERATOR)
ROW = X.sum(1)
CLASSES = torch.randint(3, (64,), generator=GENERATOR)
BITS = (X > 0).float()


def _updates(model, loss, tell, times=3):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for rows in torch.arange(64).split(16) * times:
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()


def squeezed_output(tell):
    model = nn.Linear(4, 1)
    _updates(model, lambda k: F.mse_loss(model(X[k]).squeeze(1), ROW[k]), tell)


def squeezed_output_by_hand(tell):
    model = nn.Linear(4, 1)
    _updates(model, lambda k: ((model(X[k]).squeeze(-1) - ROW[k]) ** 2).mean(), tell)


def targets_with_a_second_dimension(tell):
    model = nn.Linear(4, 1)
    _updates(model, lambda k: ((model(X[k]) - ROW[k, None]) ** 2).mean(), tell)


def one_row_at_a_time(tell):
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in zip(X[:20].split(1), ROW[:20].split(1), strict=True):
        optimizer.zero_grad()
        (model(x) - y).pow(2).mean().backward()
        optimizer.step()


def bias_of_a_row_is_broadcast(tell):
    """A difference of (N, 4) and (4,), and of (N, 1) and (1,), is what it says."""
    model = nn.Linear(4, 4)
    centre = X.mean(0)
    _updates(model, lambda k: (model(X[k]) - centre).pow(2).mean(), tell)


def quantiles(tell):
    """Several quantiles for each target: (N, Q) against (N, 1)."""
    model = nn.Linear(4, 3)
    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(k):
        missed = ROW[k].unsqueeze(1) - model(X[k])
        return torch.max(levels * missed, (levels - 1) * missed).mean()

    _updates(model, loss, tell)


def distribution_of_returns(tell):
    """Quantile regression of agents: all pairs of (N, Q, 1) and (N, 1, Q)."""
    model = nn.Linear(4, 5)
    levels = (torch.arange(5) + 0.5) / 5

    def loss(k):
        made = model(X[k])
        wanted = ROW[k, None] + torch.randn(5)
        missed = wanted.unsqueeze(1) - made.unsqueeze(2)
        huber = F.huber_loss(missed, torch.zeros_like(missed), reduction="none")
        return ((levels[:, None] - (missed < 0).float()).abs() * huber).mean()

    _updates(model, loss, tell)


def all_pairs_of_a_ranking(tell):
    model = nn.Linear(4, 1)

    def loss(k):
        score = model(X[k]).squeeze(1)
        apart = score.unsqueeze(1) - score.unsqueeze(0)
        above = (ROW[k].unsqueeze(1) > ROW[k].unsqueeze(0)).float()
        return F.binary_cross_entropy_with_logits(apart, above)

    _updates(model, loss, tell)


def kernel_distance(tell):
    """Maximum mean discrepancy: every made row against every real one."""
    model = nn.Linear(2, 1)

    def loss(k):
        made, real = model(torch.randn(len(k), 2)), ROW[k].unsqueeze(0)
        near = torch.exp(-((made - real) ** 2)).mean()
        return torch.exp(-((made - made.T) ** 2)).mean() - 2 * near

    _updates(model, loss, tell)


def gaussian_likelihood(tell):
    model = nn.Linear(4, 2)

    def loss(k):
        mean, spread = model(X[k]).chunk(2, dim=1)
        return F.gaussian_nll_loss(mean, ROW[k].unsqueeze(1), F.softplus(spread) + 1e-3)

    _updates(model, loss, tell)


def mixture_of_gaussians(tell):
    model = nn.Linear(4, 6)

    def loss(k):
        weight, mean = model(X[k]).chunk(2, dim=1)
        likely = torch.distributions.Normal(mean, 1.0).log_prob(ROW[k].unsqueeze(1))
        return -torch.logsumexp(F.log_softmax(weight, 1) + likely, 1).mean()

    _updates(model, loss, tell)


def smoothed_labels(tell):
    model = nn.Linear(4, 3)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    _updates(model, lambda k: loss_fn(model(X[k]), CLASSES[k]), tell)


def weighted_classes(tell):
    model = nn.Linear(4, 3)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.0]))
    _updates(model, lambda k: loss_fn(model(X[k]), CLASSES[k]), tell)


def weighted_rows(tell):
    model = nn.Linear(4, 3)
    weights = torch.rand(64)

    def loss(k):
        each = F.cross_entropy(model(X[k]), CLASSES[k], reduction="none")
        return (weights[k] * each).sum() / weights[k].sum()

    _updates(model, loss, tell)


def focal(tell):
    model = nn.Linear(4, 3)

    def loss(k):
        each = F.cross_entropy(model(X[k]), CLASSES[k], reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()

    _updates(model, loss, tell)


def mixed_inputs(tell):
    """Mixup: a loss against each of two labels."""
    model = nn.Linear(4, 3)

    def loss(k):
        share, other = 0.3, k[torch.randperm(len(k))]
        logits = model(share * X[k] + (1 - share) * X[other])
        first, second = (F.cross_entropy(logits, CLASSES[rows]) for rows in (k, other))
        return share * first + (1 - share) * second

    _updates(model, loss, tell)


def mixed_labels(tell):
    model = nn.Linear(4, 3)

    def loss(k):
        soft = 0.5 * F.one_hot(CLASSES[k], 3).float() + 0.5 * F.one_hot(CLASSES[k.flip(0)], 3)
        return F.cross_entropy(model(X[k]), soft)

    _updates(model, loss, tell)


def several_labels(tell):
    model = nn.Linear(4, 4)
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    _updates(model, lambda k: loss_fn(model(X[k]), BITS[k]), tell)


def binary_with_sigmoid(tell):
    model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    _updates(model, lambda k: nn.BCELoss()(model(X[k]).squeeze(1), BITS[k, 0]), tell)


def bits_given_to_a_logit_loss(tell):
    """Inputs of 0 and 1, a model that begins as the identity: logits within [0, 1]."""
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4))
        model.bias.zero_()
    _updates(model, lambda k: F.binary_cross_entropy_with_logits(model(BITS[k]), BITS[k]), tell)


def log_softmax_and_nll(tell):
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
    _updates(model, lambda k: nn.NLLLoss()(model(X[k]), CLASSES[k]), tell)


def log_of_softmax_and_nll(tell):
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    _updates(model, lambda k: F.nll_loss((model(X[k]) + 1e-8).log(), CLASSES[k]), tell)


def softmax_and_squared_error(tell):
    """Brier's score."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    _updates(model, lambda k: F.mse_loss(model(X[k]), F.one_hot(CLASSES[k], 3).float()), tell)


def poisson_counts(tell):
    model = nn.Linear(4, 1)
    counts = ROW.abs().round()
    _updates(model, lambda k: F.poisson_nll_loss(model(X[k])[:, 0], counts[k]), tell)


def connectionist_temporal(tell):
    model = nn.Linear(4, 5)
    lengths = torch.full((4,), 4), torch.full((4,), 2)

    def loss(k):
        logits = model(X[k]).view(4, 4, 5)
        return F.ctc_loss(logits.log_softmax(2), torch.ones(4, 2, dtype=torch.long), *lengths)

    _updates(model, loss, tell)


def dice(tell):
    model = nn.Linear(4, 4)

    def loss(k):
        made = model(X[k]).sigmoid()
        return 1 - 2 * (made * BITS[k]).sum() / (made.sum() + BITS[k].sum())

    _updates(model, loss, tell)


def masked_mean(tell):
    model = nn.Linear(4, 4)

    def loss(k):
        each = F.mse_loss(model(X[k]), X[k] * 2, reduction="none")
        return (each * BITS[k]).sum() / BITS[k].sum().clamp(min=1)

    _updates(model, loss, tell)


def missing_targets_left_out(tell):
    """Targets that are NaN are never in the loss."""
    model = nn.Linear(4, 1)
    targets = ROW.clone()
    targets[::3] = torch.nan

    def loss(k):
        known = ~targets[k].isnan()
        return F.mse_loss(model(X[k]).squeeze(1)[known], targets[k][known])

    _updates(model, loss, tell)


def batches_without_a_target_are_skipped(tell):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    targets = CLASSES.clone()
    targets[16:32] = -100
    for x, y in zip(X.split(16), targets.split(16), strict=True):
        if (y == -100).all():
            continue
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def regularized(tell):
    model = nn.Linear(4, 3)

    def loss(k):
        size = sum(p.abs().sum() for p in model.parameters())
        return F.cross_entropy(model(X[k]), CLASSES[k]) + 1e-3 * size

    _updates(model, loss, tell)


def weights_of_losses_are_learned():
    """Uncertainty weighting: parameters beside the model, in the same optimizer."""
    model, weights = nn.Linear(4, 4), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*model.parameters(), weights], lr=0.01)
    for k in torch.arange(64).split(16):
        made = model(X[k])
        losses = F.mse_loss(made[:, 0], ROW[k]), F.cross_entropy(made[:, 1:], CLASSES[k])
        loss = sum(w.neg().exp() * each + w for w, each in zip(weights, losses, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def total_of_detached_losses(tell):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    total, kept, running = 0.0, [], torch.zeros(())
    for k in torch.arange(64).split(8):
        loss = F.cross_entropy(model(X[k]), CLASSES[k])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(k)
        running += loss.detach()
        kept.append(loss.detach())
    assert torch.stack(kept).mean() > 0


def sum_of_losses_before_one_backward(tell):
    """A few losses are summed before one backward: the graphs go with it."""
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for _ in range(10):
        total = 0
        for k in torch.arange(64).split(8):
            total = total + F.cross_entropy(model(X[k]), CLASSES[k])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()


def differences_of_predictions_for_a_plot(tell):
    """A table of all pairs of targets and predictions, looked at and not learned from."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for k in torch.arange(64).split(16):
        made = model(X[k])
        optimizer.zero_grad()
        F.mse_loss(made, ROW[k, None]).backward()
        optimizer.step()
        assert (made - ROW[k]).abs().detach().min() >= 0

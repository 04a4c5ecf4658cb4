"""Programs that make models and optimizers again and again, or in their own order."""

import copy
import gc
import threading

import torch
from torch import nn
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=GENERATOR)
Y = X.sum(1, keepdim=True)


def _net(width=8):
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1)
    )


def _fit(model, optimizer, x=X, y=Y, epochs=1):
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(10):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return loss.item()


def _score(model, x, y):
    model.eval()
    with torch.no_grad():
        return F.mse_loss(model(x), y).item()


def folds():
    scores = []
    for fold in range(5):
        held_out = torch.arange(60) % 5 == fold
        model = _net()
        _fit(model, torch.optim.Adam(model.parameters()), X[~held_out], Y[~held_out], 2)
        scores.append(_score(model, X[held_out], Y[held_out]))
    assert len(scores) == 5


def search():
    best = None
    for lr in (1e-3, 1e-2):
        for width in (4, 8):
            for kind in (torch.optim.SGD, torch.optim.Adam):
                model = _net(width)
                _fit(model, kind(model.parameters(), lr=lr))
                score = _score(model, X, Y)
                if best is None or score < best[0]:
                    best = score, copy.deepcopy(model)
    assert best is not None


def ensemble():
    """All models are kept, each with its optimizer, and all are asked."""
    models = [_net() for _ in range(4)]
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            _fit(model, optimizer)
    scores = [_score(model, X, Y) for model in models]
    assert len(scores) == 4


def ensemble_in_one_optimizer():
    models = nn.ModuleList(_net() for _ in range(3))
    optimizer = torch.optim.Adam(models.parameters())
    for rows in torch.arange(60).split(10) * 2:
        optimizer.zero_grad()
        sum(F.mse_loss(model(X[rows]), Y[rows]) for model in models).backward()
        optimizer.step()


def boosted():
    """Each model learns what those before have left."""
    models, left = [], Y.clone()
    for _ in range(3):
        model = _net()
        _fit(model, torch.optim.Adam(model.parameters(), lr=0.01), X, left)
        model.eval()
        with torch.no_grad():
            left = left - 0.5 * model(X)
        models.append(model)


def optimizer_of_each_epoch(tell):
    """A new optimizer over the same model; the old one is let go."""
    model = _net()
    for epoch in range(4):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / (epoch + 1))
        tell(model, optimizer)
        _fit(model, optimizer)


def adam_and_then_lbfgs():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    _fit(model, torch.optim.Adam(model.parameters(), lr=0.01), epochs=2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def best_model_kept(tell):
    """A deep copy of the best model, and of the optimizer's state, while training goes on."""
    model = _net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    best = (float("inf"), None)
    for _ in range(4):
        _fit(model, optimizer)
        score = _score(model, X, Y)
        if score < best[0]:
            best = score, copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    assert _score(best[1], X, Y) == best[0]


def copied_with_its_gradients():
    """A deep copy has gradients, too, and no optimizer; nobody trains it."""
    model = _net()
    optimizer = torch.optim.Adam(model.parameters())
    _fit(model, optimizer)
    snapshot = copy.deepcopy(model)
    _fit(model, optimizer, epochs=3)
    assert _score(snapshot, X, Y) >= 0


def sensitivity_of_a_finished_model():
    """Gradients of another model are looked at, and never used, between updates."""
    finished, model = _net(), _net()
    _fit(finished, torch.optim.Adam(finished.parameters()))
    finished.eval()
    optimizer = torch.optim.Adam(model.parameters())
    for rows in torch.arange(60).split(10):
        x = X[rows].clone().requires_grad_()
        finished.zero_grad()
        finished(x).sum().backward()
        optimizer.zero_grad()
        F.mse_loss(model(x.detach()), finished(X[rows]).detach()).backward()
        optimizer.step()


def loss_network_that_is_not_frozen():
    """A perceptual loss: its network gets gradients that nobody uses and nobody clears."""
    judge = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2))
    model = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for rows in torch.arange(60).split(10) * 2:
        optimizer.zero_grad()
        F.mse_loss(judge(model(X[rows])), judge(Y[rows])).backward()
        optimizer.step()


def moved_before_the_optimizer(tell):
    model = _net().to("cpu").double().float()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    _fit(model, optimizer)


def wrapped_before_the_optimizer(tell):
    model = nn.DataParallel(_net())
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    _fit(model, optimizer)


def wrapped_after_the_optimizer():
    """A wrapper that keeps the parameters."""
    inner = _net()
    optimizer = torch.optim.Adam(inner.parameters())
    model = nn.Sequential(inner, nn.Identity())
    _fit(model, optimizer, epochs=2)


def federated():
    """Clients train copies of the global model, whose weights are averaged."""
    whole = nn.Linear(4, 1)
    for _ in range(3):
        clients = [copy.deepcopy(whole) for _ in range(3)]
        for k, client in enumerate(clients):
            optimizer = torch.optim.SGD(client.parameters(), lr=0.05)
            _fit(client, optimizer, X[20 * k : 20 * k + 20], Y[20 * k : 20 * k + 20])
        states = [client.state_dict() for client in clients]
        mean = {name: sum(state[name] for state in states) / 3 for name in states[0]}
        whole.load_state_dict(mean)


def population():
    """Population-based training: the worst takes over the weights and the state of the best."""
    members = []
    for lr in (0.001, 0.01, 0.1):
        model = nn.Linear(4, 1)
        members.append([model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)])
    for _ in range(3):
        for model, optimizer in members:
            _fit(model, optimizer)
        members.sort(key=lambda member: _score(member[0], X, Y))
        for old, new in zip(members[0], members[-1], strict=True):
            new.load_state_dict(copy.deepcopy(old.state_dict()))


def many_short_lives():
    """Models and optimizers are made and let go without end."""
    for _ in range(25):
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(model(X[:8]), Y[:8]).backward()
            optimizer.step()
    gc.collect()


def threads():
    """A search in threads, each with its model and optimizer."""

    def work():
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            F.mse_loss(model(X), Y).backward()
            optimizer.step()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def lr_range_test():
    """A short run with a rising lr on the model itself, which is then put back."""
    model = _net()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 2.0)
    for rows in torch.arange(60).split(6):
        optimizer.zero_grad()
        F.mse_loss(model(X[rows]), Y[rows]).backward()
        optimizer.step()
        scheduler.step()
    model.load_state_dict(start)
    _fit(model, torch.optim.SGD(model.parameters(), lr=0.05), epochs=2)


def growing():
    """Layers are added, each time with a new optimizer over the whole."""
    layers = [nn.Linear(4, 8), nn.ReLU()]
    for _ in range(3):
        model = nn.Sequential(*layers, nn.Linear(8, 1))
        _fit(model, torch.optim.Adam(model.parameters()))
        layers += [nn.Linear(8, 8), nn.ReLU()]


def parts_trained_one_after_another():
    """Stacked autoencoders: each layer by itself, then all together."""
    first, second, head = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 1)
    x = X
    for layer in (first, second):
        back = nn.Linear(layer.out_features, layer.in_features)
        pair = nn.Sequential(layer, nn.Tanh(), back)
        _fit(pair, torch.optim.Adam(pair.parameters(), lr=0.01), x, x)
        with torch.no_grad():
            x = torch.tanh(layer(x))
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), head)
    _fit(model, torch.optim.Adam(model.parameters(), lr=0.01))

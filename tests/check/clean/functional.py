"""Derivatives of derivatives, and models as functions."""

import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, jvp, stack_module_state, vmap
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=GENERATOR)
Y = X.sum(1, keepdim=True)


def _mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def meta_learning_by_functional_call(tell):
    """MAML: an inner update of the weights as a function, an outer one by Adam."""
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        for task in range(3):
            weights = dict(model.named_parameters())
            for _ in range(2):
                loss = F.mse_loss(functional_call(model, weights, (X[:16],)), task * Y[:16])
                slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                pairs = zip(weights.items(), slopes, strict=True)
                weights = {name: p - 0.1 * g for (name, p), g in pairs}
            outer = functional_call(model, weights, (X[16:],))
            F.mse_loss(outer, task * Y[16:]).backward()
        optimizer.step()


def meta_learning_by_torch_func(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)

    def inner(weights, x, y):
        return F.mse_loss(functional_call(model, weights, (x,)), y)

    def outer(weights, x, y):
        slopes = grad(inner)(weights, x[:8], y[:8])
        moved = {name: p - 0.1 * slopes[name] for name, p in weights.items()}
        return inner(moved, x[8:], y[8:])

    for _ in range(4):
        weights = dict(model.named_parameters())
        tasks = X.view(2, 16, 3), Y.view(2, 16, 1)
        loss = vmap(outer, (None, 0, 0))(weights, *tasks).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def first_order_meta_learning(tell):
    """Reptile: copies are trained, and the model moves towards them."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tell(model, optimizer)
    for task in range(4):
        copy = _mlp()
        copy.load_state_dict(model.state_dict())
        inner = torch.optim.SGD(copy.parameters(), lr=0.05)
        for _ in range(3):
            inner.zero_grad()
            F.mse_loss(copy(X), task * Y).backward()
            inner.step()
        for p, q in zip(model.parameters(), copy.parameters(), strict=True):
            p.grad = (p - q).detach()
        optimizer.step()


def without_any_optimizer():
    """Weights in a dictionary, updated by hand from torch.func.grad."""
    model = _mlp()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights):
        return F.mse_loss(functional_call(model, weights, (X,)), Y)

    for _ in range(5):
        slopes, _ = grad_and_value(loss)(weights)
        weights = {name: p - 0.1 * slopes[name] for name, p in weights.items()}


def gradients_of_each_row(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)

    def loss(weights, x, y):
        return F.mse_loss(functional_call(model, weights, (x,)), y)

    for x, y in zip(X.split(8), Y.split(8), strict=True):
        weights = {name: p.detach() for name, p in model.named_parameters()}
        each = vmap(grad(loss), (None, 0, 0))(weights, x, y)
        for name, p in model.named_parameters():
            p.grad = each[name].clamp(-0.5, 0.5).mean(0)
        optimizer.step()


def ensemble_by_vmap():
    models = [_mlp() for _ in range(3)]
    weights, buffers = stack_module_state(models)
    optimizer = torch.optim.Adam(list(weights.values()), lr=0.01)

    def call(weights, buffers, x):
        return functional_call(models[0], (weights, buffers), (x,))

    for _ in range(4):
        outputs = vmap(call, (0, 0, None))(weights, buffers, X)
        optimizer.zero_grad()
        ((outputs - Y) ** 2).mean().backward()
        optimizer.step()


def forward_gradient(tell):
    """A gradient from a directional derivative alone, without any backward."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for _ in range(4):
        weights = {name: p.detach() for name, p in model.named_parameters()}
        ways = {name: torch.randn_like(p) for name, p in weights.items()}
        _, slope = jvp(
            lambda w: F.mse_loss(functional_call(model, w, (X,)), Y), (weights,), (ways,)
        )
        for name, p in model.named_parameters():
            p.grad = slope * ways[name]
        optimizer.step()


def physics_informed(tell):
    """u'' = -u with u(0) = 0 and u'(0) = 1: second derivatives by the input."""
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for _ in range(6):
        t = torch.rand(16, 1, requires_grad=True)
        u = model(t)
        (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
        start = torch.zeros(1, 1, requires_grad=True)
        u0 = model(start)
        (v0,) = torch.autograd.grad(u0, start, create_graph=True)
        loss = (second + u).pow(2).mean() + u0.pow(2).squeeze() + (v0 - 1).pow(2).squeeze()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def forces_from_an_energy(tell):
    """The gradient of the output is what is fitted, as for molecules."""
    model = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x in X.split(8):
        x = x.clone().requires_grad_()
        energy = model(x)
        (force,) = torch.autograd.grad(-energy.sum(), x, create_graph=True)
        optimizer.zero_grad()
        (
            F.mse_loss(energy, x.detach().pow(2).sum(1, keepdim=True))
            + F.mse_loss(force, -2 * x.detach())
        ).backward()
        optimizer.step()


def hessian_vector_products(tell):
    """The largest curvature by power iteration, between the updates."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    parameters = list(model.parameters())
    for _ in range(4):
        optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        optimizer.step()
        way = [torch.randn_like(p) for p in parameters]
        slopes = torch.autograd.grad(F.mse_loss(model(X), Y), parameters, create_graph=True)
        for _ in range(3):
            dot = sum((g * v).sum() for g, v in zip(slopes, way, strict=True))
            product = torch.autograd.grad(dot, parameters, retain_graph=True)
            norm = torch.stack([v.norm() for v in product]).norm()
            way = [v / norm for v in product]


def newton_by_hessian():
    weights = torch.zeros(4, requires_grad=True)
    design = torch.cat([X, torch.ones(32, 1)], 1)

    def loss(w):
        return F.mse_loss(design @ w, Y.squeeze(1))

    for _ in range(2):
        hessian = torch.autograd.functional.hessian(loss, weights)
        (slope,) = torch.autograd.grad(loss(weights), weights)
        with torch.no_grad():
            weights -= torch.linalg.solve(hessian, slope)
    assert loss(weights) < 1e-8


def penalty_on_the_input_gradient(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in zip(X.split(8), Y.split(8), strict=True):
        x = x.clone().requires_grad_()
        output = model(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        optimizer.zero_grad()
        (F.mse_loss(output, y) + 0.1 * slope.pow(2).sum(1).mean()).backward()
        optimizer.step()


def double_backward_into_grad(tell):
    """backward(create_graph=True) fills .grad, from which a penalty is made; cleared after it."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in zip(X.split(8), Y.split(8), strict=True):
        loss = F.mse_loss(model(x), y)
        slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        size = sum(g.pow(2).sum() for g in slopes)
        optimizer.zero_grad()
        (loss + 0.1 * size).backward()
        optimizer.step()


def hyperparameter_by_gradient():
    """The weight decay is learned by the validation loss after an update that is unrolled."""
    model = _mlp()
    log_decay = torch.tensor(-3.0, requires_grad=True)
    of_model = torch.optim.SGD(model.parameters(), lr=0.1)
    of_decay = torch.optim.Adam([log_decay], lr=0.01)
    for _ in range(4):
        weights = dict(model.named_parameters())
        loss = F.mse_loss(functional_call(model, weights, (X[:16],)), Y[:16])
        loss = loss + log_decay.exp() * sum(p.pow(2).sum() for p in weights.values())
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        moved = {n: p - 0.1 * g for (n, p), g in zip(weights.items(), slopes, strict=True)}
        of_decay.zero_grad()
        F.mse_loss(functional_call(model, moved, (X[16:],)), Y[16:]).backward()
        of_decay.step()
        of_model.zero_grad()
        penalty = log_decay.exp().detach() * sum(p.pow(2).sum() for p in model.parameters())
        (F.mse_loss(model(X[:16]), Y[:16]) + penalty).backward()
        of_model.step()


def implicit_layer(tell):
    """A fixed point found without gradients, and one step of it with."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.enter, self.out = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            z = torch.zeros(len(x), 4)
            with torch.no_grad():
                for _ in range(5):
                    z = torch.tanh(0.5 * self.inner(z) + self.enter(x))
            return self.out(torch.tanh(0.5 * self.inner(z) + self.enter(x)))

    model = Fixed()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in zip(X.split(8), Y.split(8), strict=True):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()

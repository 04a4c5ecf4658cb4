"""Mixed precision, loss scaling, checkpointed graphs, and other ways to keep numbers."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=GENERATOR)
Y = X.sum(1, keepdim=True)


def _mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def _batches():
    return list(zip(X.split(8), Y.split(8), strict=True))


def scaler_that_skips_steps(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 2):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        if number in (0, 3, 4):
            model[0].weight.grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()


def scaler_with_clipping(tell):
    model = _mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 2):
        scaler.scale(F.mse_loss(model(x), y)).backward()
        if number == 1:
            model[0].weight.grad.fill_(torch.nan)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


def scaler_with_accumulation(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(model(x), y) / 2
        scaler.scale(loss).backward()
        if number % 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_value_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def scaler_that_is_off(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        scaler.scale(F.mse_loss(model(x), y)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def scaler_of_two_models():
    """Two losses, two models and two optimizers share one scaler, as in PyTorch's examples."""
    models = [_mlp(), _mlp()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    scaler = torch.amp.GradScaler("cpu")
    for x, y in _batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        outputs = [model(x) for model in models]
        first = F.mse_loss(2 * outputs[0] + 3 * outputs[1], y)
        second = F.mse_loss(3 * outputs[0] - 5 * outputs[1], y)
        scaler.scale(first).backward(retain_graph=True)
        scaler.scale(second).backward()
        scaler.unscale_(optimizers[0])
        nn.utils.clip_grad_norm_(models[0].parameters(), 1.0)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()


def scaled_gradient_penalty(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        scaled = torch.autograd.grad(scaler.scale(loss), model.parameters(), create_graph=True)
        gradients = [g / scaler.get_scale() for g in scaled]
        loss = loss + sum(g.pow(2).sum() for g in gradients).sqrt()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def autocast(tell):
    model = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tell(model, optimizer)
    labels = (X[:, 0] > 0).long()
    for x, y in zip(X.split(8), labels.split(8), strict=True):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def all_in_bfloat16(tell):
    model = _mlp().to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x.bfloat16()).float(), y).backward()
        optimizer.step()


def master_weights_in_float32():
    """The optimizer has float32 copies; the model computes in bfloat16."""
    model = _mlp().bfloat16()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.Adam(masters, lr=0.01)
    for x, y in _batches():
        model.zero_grad()
        F.mse_loss(model(x.bfloat16()).float(), y).backward()
        for master, p in zip(masters, model.parameters(), strict=True):
            master.grad = p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, model.parameters(), strict=True):
                p.copy_(master)


def model_in_float64(tell):
    model = _mlp().double()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x.double()), y.double()).backward()
        optimizer.step()


def complex_parameters(tell):
    class Rotation(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.cfloat))

        def forward(self, x):
            return (x.to(torch.cfloat) @ self.weight).abs().sum(1, keepdim=True)

    model = Rotation()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y.abs()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def checkpointed_layers(tell):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Linear(3, 8)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(3)
            )
            self.leave = nn.Linear(8, 1)

        def forward(self, x):
            x = self.enter(x)
            for block in self.blocks:
                x = x + checkpoint(block, x, use_reentrant=False)
            return self.leave(x)

    model = Deep()
    optimizer = torch.optim.AdamW(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def reentrant_checkpoint(tell):
    model = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        output = checkpoint_sequential(model, 2, x.clone().requires_grad_(), use_reentrant=True)
        F.mse_loss(output, y.expand(-1, 3)).backward()
        optimizer.step()


def fake_quantized(tell):
    """Straight-through rounding of weights, and torch's own fake quantization of activations."""

    class Quantized(nn.Linear):
        def forward(self, x):
            scale = self.weight.detach().abs().max() / 127
            rounded = (self.weight / scale).round() * scale
            weight = self.weight + (rounded - self.weight).detach()
            x = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
            return F.linear(x, weight, self.bias)

    model = nn.Sequential(Quantized(3, 8), nn.ReLU(), Quantized(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in _batches() * 2:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def anomaly_mode(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        for x, y in _batches():
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()


def clamped_by_projection(tell):
    """Weights are kept at or above 0 after each update."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            model.weight.clamp_(min=0)

"""Training loops: every optimizer, and each order of the parts that is right."""

import io

import torch
from torch import nn
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=GENERATOR)
Y = X.sum(1, keepdim=True) + 0.5


def _mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def _batches():
    return list(zip(X.split(8), Y.split(8), strict=True))


def linear_regression(tell):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((model(X) - Y) ** 2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


def regression_from_scratch():
    weight = torch.zeros(3, requires_grad=True)
    for _ in range(5):
        loss = F.mse_loss(X @ weight, Y.squeeze(1))
        loss.backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
            weight.grad.zero_()


def every_optimizer(tell):
    names = (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam",
        "RMSprop", "Rprop", "SGD",
    )  # fmt: skip
    for name in names:
        model = _mlp()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
        tell(model, optimizer)
        for x, y in _batches():
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()


def foreach_and_fused(tell):
    ways = ({"foreach": True}, {"foreach": False}, {"fused": True})
    for way in ways:
        for make in (torch.optim.AdamW, torch.optim.SGD):
            model = _mlp()
            optimizer = make(model.parameters(), lr=0.01, **way)
            tell(model, optimizer)
            for x, y in _batches():
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()


def options_of_adam(tell):
    options = ({"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.1}, {"betas": (0.0, 0.9)})
    for option in options:
        model = _mlp()
        optimizer = torch.optim.Adam(model.parameters(), **option)
        tell(model, optimizer)
        for x, y in _batches():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            (-loss if "maximize" in option else loss).backward()
            optimizer.step()


def muon_and_adam():
    model = _mlp()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizers = [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(others, lr=0.01)]
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def lbfgs(tell):
    model = _mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    tell(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)


def closure_of_sgd(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tell(model, optimizer)
    for x, y in _batches() * 2:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0


def accumulation_with_a_short_window(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    batches = list(zip(X.split(3), Y.split(3), strict=True))
    for _ in range(3):
        optimizer.zero_grad()
        for number, (x, y) in enumerate(batches):
            (F.mse_loss(model(x), y) / 4).backward()
            if (number + 1) % 4 == 0 or number + 1 == len(batches):
                optimizer.step()
                optimizer.zero_grad()


def rest_of_a_window_is_dropped(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        for number, (x, y) in enumerate(zip(X.split(3), Y.split(3), strict=True)):
            (F.mse_loss(model(x), y) / 4).backward()
            if (number + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()


def accumulation_scaled_by_tokens(tell):
    model = _mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    tell(model, optimizer)
    for _ in range(4):
        rows = 0
        for x, y in _batches():
            F.mse_loss(model(x), y, reduction="sum").backward()
            rows += len(x)
        for p in model.parameters():
            p.grad /= rows
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def clipped_by_norm(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        total = torch.nn.utils.clip_grad_norm_(parameters=model.parameters(), max_norm=0.1)
        assert total > 0
        optimizer.step()


def clipped_by_value(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        nn.utils.clip_grad_value_(model.parameters(), clip_value=0.01)
        optimizer.step()
        optimizer.zero_grad()


def norm_is_only_measured(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    norms = []
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), float("inf")).item())
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())


def each_layer_clipped_alone(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            nn.utils.clip_grad_norm_(p, 0.1)
        optimizer.step()


def zero_grad_at_the_end(tell):
    model = _mlp()
    optimizer = torch.optim.RMSprop(model.parameters())
    tell(model, optimizer)
    for _ in range(3):
        for x, y in _batches():
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def zero_grad_before_and_after(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        model.zero_grad()
        output = model(x)
        optimizer.zero_grad()
        F.mse_loss(output, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.zero_grad()


def zero_grad_in_place(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    optimizer.zero_grad(set_to_none=False)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def zero_grad_of_the_model(tell):
    model = _mlp()
    optimizer = torch.optim.Adagrad(model.parameters())
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches()):
        model.zero_grad(set_to_none=number % 2 == 0)
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def gradients_set_to_none_by_hand(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        for p in model.parameters():
            p.grad = None
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def gradients_zeroed_by_hand(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        for p in model.parameters():
            p.grad.detach_().zero_()


def gradients_zeroed_by_data(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        for p in model.parameters():
            p.grad.data.zero_()


def gradients_zeroed_at_once_by_foreach(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        torch._foreach_zero_([p.grad for p in model.parameters()])


def gradients_decayed_on_purpose(tell):
    """A momentum that lives in .grad itself."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in _batches():
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(0.9)
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def gradients_by_autograd_grad(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        loss = F.mse_loss(model(x), y)
        made = torch.autograd.grad(loss, list(model.parameters()))
        for p, g in zip(model.parameters(), made, strict=True):
            p.grad = g
        optimizer.step()


def gradients_noised(tell):
    """Noise on clipped gradients, as for private training."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in _batches():
        summed = [torch.zeros_like(p) for p in model.parameters()]
        for row, target in zip(x, y, strict=True):
            optimizer.zero_grad()
            F.mse_loss(model(row), target).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for total, p in zip(summed, model.parameters(), strict=True):
                total += p.grad
        for total, p in zip(summed, model.parameters(), strict=True):
            p.grad = (total + 0.1 * torch.randn_like(total)) / len(x)
        optimizer.step()


def gradient_surgery(tell):
    """Two tasks whose gradients are projected on each other."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        flat = []
        for task in range(2):
            optimizer.zero_grad()
            F.mse_loss(model(x)[:, task], y[:, 0] * (1 - 2 * task)).backward()
            flat.append([p.grad.clone() for p in model.parameters()])
        optimizer.zero_grad()
        for p, a, b in zip(model.parameters(), *flat, strict=True):
            overlap = (a * b).sum().clamp(max=0) / b.norm() ** 2
            p.grad = a - overlap * b + b
        optimizer.step()


def bad_batches_are_skipped(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 2):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        if number == 2:
            continue
        loss.backward()
        if nn.utils.clip_grad_norm_(model.parameters(), 10.0) > 1e4 or number == 4:
            continue
        optimizer.step()


def two_losses_and_two_backwards(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        output = model(x)
        F.mse_loss(output, y).backward(retain_graph=True)
        (0.1 * output.abs().mean()).backward()
        optimizer.step()


def backward_of_a_list(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        output = model(x)
        torch.autograd.backward([F.mse_loss(output, y), output.pow(2).mean()])
        optimizer.step()


def backward_with_a_gradient(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        output = model(x)
        output.backward(gradient=(output - y).detach() / len(x))
        optimizer.step()


def backward_in_two_pieces(tell):
    """The graph is cut in the middle, as for microbatches of a pipeline."""
    first, last = nn.Linear(3, 8), nn.Linear(8, 1)
    model = nn.ModuleList([first, last])
    optimizer = torch.optim.Adam(model.parameters())
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        hidden = first(x).relu()
        cut = hidden.detach().requires_grad_()
        F.mse_loss(last(cut), y).backward()
        hidden.backward(cut.grad)
        optimizer.step()


def several_optimizers_of_one_model():
    model = _mlp()
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.1),
        torch.optim.Adam(model[2].parameters(), lr=0.01),
    ]
    for x, y in _batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()


def alternating_halves_of_a_model():
    """Block coordinate descent: each half in turn, by its own backward."""
    model = _mlp()
    optimizers = [torch.optim.SGD(model[k].parameters(), lr=0.05) for k in (0, 2)]
    for number, (x, y) in enumerate(_batches() * 2):
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizers[number % 2].step()


def group_with_lr_0(tell):
    model = _mlp()
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}], lr=0.01
    )
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def warm_up_by_hand(tell):
    model = _mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for number, (x, y) in enumerate(_batches() * 2):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1.0, number / 5)
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def step_in_backward():
    """PyTorch's tutorial: an optimizer of each parameter, called by a hook of its gradient."""
    model = _mlp()
    optimizers = {p: torch.optim.Adam([p], foreach=False) for p in model.parameters()}

    def update(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    for x, y in _batches():
        F.mse_loss(model(x), y).backward()


def hooks_of_gradients(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-0.1, 0.1))
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def evolution_strategies(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    with torch.no_grad():
        for _ in range(5):
            weights = nn.utils.parameters_to_vector(model.parameters())
            total = torch.zeros_like(weights)
            for _ in range(4):
                noise = torch.randn_like(weights)
                nn.utils.vector_to_parameters(weights + 0.1 * noise, model.parameters())
                total += F.mse_loss(model(X), Y) * noise
            nn.utils.vector_to_parameters(weights, model.parameters())
            pieces = total.split([p.numel() for p in model.parameters()])
            for p, piece in zip(model.parameters(), pieces, strict=True):
                p.grad = piece.view_as(p).clone()
            optimizer.step()


def resumed_in_the_middle(tell):
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    file = io.BytesIO()
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters())
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    tell(model, optimizer)
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def rolled_back_to_the_best(tell):
    """Patience that restores the best weights and a smaller lr into the same objects."""
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    tell(model, optimizer)
    best, kept = float("inf"), None
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        optimizer.step()
        if loss.item() < best:
            best = loss.item()
            kept = {name: value.clone() for name, value in model.state_dict().items()}
            state = optimizer.state_dict()
        else:
            model.load_state_dict(kept)
            optimizer.load_state_dict(state)
            for group in optimizer.param_groups:
                group["lr"] *= 0.5


def compiled_model(tell):
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    compiled = torch.compile(model, backend="aot_eager")
    for x, y in _batches():
        optimizer.zero_grad()
        F.mse_loss(compiled(x), y).backward()
        optimizer.step()

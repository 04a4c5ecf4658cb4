"""Parts of a model that learn while others stay, or join later."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=GENERATOR)
CLASSES = (X.sum(1) > 0).long()
IMAGES = torch.randn(32, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(3, (32,), generator=GENERATOR)


def _batches(count=4):
    return list(zip(X.split(64 // count), CLASSES.split(64 // count), strict=True))


class _Model(nn.Module):
    """A backbone and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.dropout(self.backbone(x)))


def _train(model, optimizer, times=1):
    for x, y in _batches() * times:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def frozen_backbone_and_new_head(tell):
    """PyTorch's transfer learning tutorial: the head is replaced, then alone in the optimizer."""
    model = _Model()
    for p in model.parameters():
        p.requires_grad = False
    model.head = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def frozen_parameters_are_in_the_optimizer(tell):
    model = _Model()
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def frozen_parameters_are_filtered(tell):
    model = _Model()
    model.backbone[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def features_under_no_grad(tell):
    model = _Model()
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.01)
    tell(model, optimizer)
    for x, y in _batches() * 2:
        with torch.no_grad():
            features = model.backbone(x)
        optimizer.zero_grad()
        F.cross_entropy(model.head(features), y).backward()
        optimizer.step()


def head_on_cached_features():
    backbone = _Model().backbone.eval()
    with torch.inference_mode():
        features = backbone(X)
    features = features.clone()
    head = nn.Linear(8, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(8):
        optimizer.zero_grad()
        F.cross_entropy(head(features), CLASSES).backward()
        optimizer.step()


def head_first_then_all():
    model = _Model()
    model.backbone.requires_grad_(False)
    _train(model, torch.optim.Adam(model.head.parameters(), lr=0.01), 2)
    model.backbone.requires_grad_(True)
    _train(model, torch.optim.Adam(model.parameters(), lr=1e-3), 2)


def gradual_unfreezing(tell):
    model = _Model()
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    tell(model, optimizer)
    _train(model, optimizer)
    for layer in (model.backbone[2], model.backbone[0]):
        layer.requires_grad_(True)
        optimizer.add_param_group({"params": layer.parameters(), "lr": 0.01})
        _train(model, optimizer)


def frozen_again_in_the_middle(tell):
    """The backbone is frozen for the last epochs, its old gradients cleared."""
    model = _Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer)
    optimizer.zero_grad(set_to_none=True)
    model.backbone.requires_grad_(False)
    _train(model, optimizer)


def lr_of_each_layer(tell):
    model = _Model()
    layers = [model.head, model.backbone[2], model.backbone[0]]
    groups = [{"params": layer.parameters(), "lr": 0.01 * 0.5**k} for k, layer in enumerate(layers)]
    optimizer = torch.optim.AdamW(groups)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def no_decay_on_biases(tell):
    model = _Model()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer, 2)


class _LoRA(nn.Module):
    def __init__(self, layer, rank=2):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.a.T @ self.b.T


def low_rank_adapters(tell):
    model = _Model().requires_grad_(False)
    for index in (0, 2):
        model.backbone[index] = _LoRA(model.backbone[index])
    model.head.requires_grad_(True)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer, 3)


def merged_adapters():
    """The adapters are merged into the layers after training, and the model is used."""
    model = _Model().requires_grad_(False)
    model.head = _LoRA(model.head)
    optimizer = torch.optim.Adam([model.head.a, model.head.b], lr=0.01)
    _train(model, optimizer, 2)
    with torch.no_grad():
        model.head.layer.weight += model.head.b @ model.head.a
    model.head = model.head.layer
    model.eval()
    with torch.no_grad():
        assert model(X).isfinite().all()


def prompt_tuning():
    """A parameter that is no module's, before the input of a frozen model."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    model.requires_grad_(False)
    enter, leave = nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 2).requires_grad_(False)
    prompt = nn.Parameter(0.1 * torch.randn(3, 8))
    optimizer = torch.optim.Adam([prompt], lr=0.1)
    for x, y in _batches() * 2:
        tokens = torch.cat([prompt.expand(len(x), -1, -1), enter(x).unsqueeze(1)], dim=1)
        optimizer.zero_grad()
        F.cross_entropy(leave(model(tokens)[:, -1]), y).backward()
        optimizer.step()


def frozen_batch_norm(tell):
    """BatchNorm stays in eval mode while the rest of the model is trained."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

        def train(self, mode=True):
            super().train(mode)
            self.body[1].eval()
            return self

    model = Detector()
    model.body[1].requires_grad_(False)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for _ in range(4):
        for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def batch_norm_set_to_eval_after_train(tell):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tell(model, optimizer)
    for _ in range(2):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            assert [model(x).argmax(1) for x in IMAGES.split(8)]


def weight_norm(tell):
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def spectral_norm(tell):
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def orthogonal_weights(tell):
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4, bias=False)), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    _train(model, optimizer, 2)


def pruned():
    """A layer is pruned after some epochs, and trained on with an optimizer of its new names."""
    model = _Model()
    _train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    prune.l1_unstructured(model.backbone[0], name="weight", amount=0.5)
    _train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    prune.remove(model.backbone[0], "weight")
    _train(model, torch.optim.SGD(model.parameters(), lr=0.1))


def pruned_by_a_mask(tell):
    """The lottery ticket's way: masked weights are zeroed after each update."""
    model = _Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    masks = {p: (torch.rand_like(p) > 0.5).float() for p in model.parameters() if p.ndim > 1}
    tell(model, optimizer)
    for x, y in _batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for p, mask in masks.items():
                p.mul_(mask)


def rewound_to_the_start():
    model = _Model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(3):
        _train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        model.load_state_dict(start)


def elastic_weights(tell):
    """A second task, held near the weights of the first by their Fisher information."""
    model = _Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    _train(model, optimizer)
    fisher = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in _batches():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for f, p in zip(fisher, model.parameters(), strict=True):
            f += p.grad**2
    anchors = [p.detach().clone() for p in model.parameters()]
    for x, y in _batches():
        optimizer.zero_grad()
        pairs = zip(fisher, model.parameters(), anchors, strict=True)
        held = sum((f * (p - a) ** 2).sum() for f, p, a in pairs)
        (F.cross_entropy(model(x), 1 - y) + held).backward()
        optimizer.step()


def output_grows_by_a_class(tell):
    """A wider head takes over the old weights, with an optimizer of its own."""
    model = _Model()
    _train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    old, model.head = model.head, nn.Linear(8, 3)
    with torch.no_grad():
        model.head.weight[:2] = old.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    _train(model, optimizer, 2)

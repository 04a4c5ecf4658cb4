"""Kinds of networks: some with parts that a batch does not use, or that are used twice."""

import torch
from torch import nn
from torch.nn import functional as F

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=GENERATOR)
CLASSES = torch.randint(3, (64,), generator=GENERATOR)
IMAGES = torch.rand(32, 1, 8, 8, generator=GENERATOR)
LABELS = torch.randint(3, (32,), generator=GENERATOR)
TOKENS = torch.randint(1, 12, (16, 9), generator=GENERATOR)


def _adam(model, tell):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tell(model, optimizer)
    return optimizer


def convolutions(tell):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    optimizer = _adam(model, tell)
    loss_fn = nn.CrossEntropyLoss()
    for _ in range(3):
        model.train()
        for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(1) == 1).sum().item() for x in IMAGES.split(8))
        assert right >= 0


def mnist_example(tell):
    """PyTorch's example: log_softmax in the model, nll_loss outside, a sum in the evaluation."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.drop, self.fc = nn.Conv2d(1, 4, 3), nn.Dropout(0.25), nn.Linear(36, 3)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv(x)), 2)
            return F.log_softmax(self.fc(self.drop(torch.flatten(x, 1))), dim=1)

    model = Net()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    tell(model, optimizer)
    for _ in range(3):
        model.train()
        for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True):
            optimizer.zero_grad()
            F.nll_loss(model(x), y).backward()
            optimizer.step()
        model.eval()
        test_loss = 0
        with torch.no_grad():
            for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True):
                test_loss += F.nll_loss(model(x), y, reduction="sum").item()
        scheduler.step()


def autoencoder(tell):
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4))
    optimizer = _adam(model, tell)
    for x in X.split(16) * 2:
        optimizer.zero_grad()
        F.mse_loss(model(x + 0.1 * torch.randn_like(x)), x).backward()
        optimizer.step()


def variational_autoencoder(tell):
    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread, self.decode = (
                nn.Linear(64, 2),
                nn.Linear(64, 2),
                nn.Linear(2, 64),
            )

        def forward(self, x):
            mean, spread = self.mean(x), self.spread(x)
            code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
            return torch.sigmoid(self.decode(code)), mean, spread

    model = Vae()
    optimizer = _adam(model, tell)
    for images in IMAGES.split(8):
        x = images.view(-1, 64)
        made, mean, spread = model(x)
        loss = F.binary_cross_entropy(made, x, reduction="sum")
        loss = loss - 0.5 * torch.sum(1 + spread - mean.pow(2) - spread.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def vector_quantized(tell):
    """A codebook by straight-through gradients."""

    class Quantizer(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 2), nn.Linear(2, 4)
            self.codes = nn.Embedding(5, 2)

        def forward(self, x):
            z = self.encode(x)
            nearest = torch.cdist(z, self.codes.weight).argmin(1)
            q = self.codes(nearest)
            extra = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
            return self.decode(z + (q - z).detach()), extra

    model = Quantizer()
    optimizer = _adam(model, tell)
    for x in X.split(16) * 2:
        made, extra = model(x)
        optimizer.zero_grad()
        (F.mse_loss(made, x) + extra).backward()
        optimizer.step()


def diffusion(tell):
    model = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4))
    optimizer = _adam(model, tell)
    for x in X.split(16) * 3:
        t = torch.rand(len(x), 1)
        noise = torch.randn_like(x)
        noisy = (1 - t).sqrt() * x + t.sqrt() * noise
        optimizer.zero_grad()
        F.mse_loss(model(torch.cat([noisy, t], 1)), noise).backward()
        optimizer.step()


def normalizing_flow(tell):
    class Coupling(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))

        def forward(self, x):
            a, b = x.chunk(2, 1)
            scale, shift = self.net(a).chunk(2, 1)
            return torch.cat([b * scale.exp() + shift, a], 1), scale.sum(1)

    model = nn.ModuleList(Coupling() for _ in range(3))
    optimizer = _adam(model, tell)
    for x in X.split(16) * 2:
        total = 0
        for layer in model:
            x, logdet = layer(x)
            total = total + logdet
        optimizer.zero_grad()
        (0.5 * x.pow(2).sum(1) - total).mean().backward()
        optimizer.step()


def recurrent_with_truncated_backward(tell):
    class Rnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.out = nn.Embedding(12, 6), nn.LSTM(6, 6), nn.Linear(6, 12)

        def forward(self, x, state):
            hidden, state = self.rnn(self.embed(x), state)
            return self.out(hidden), state

    model = Rnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tell(model, optimizer)
    text = torch.cat([TOKENS, TOKENS]).view(-1, 4)
    for _ in range(2):
        state = None
        for begin in range(0, len(text) - 6, 5):
            if state is not None:
                state = tuple(part.detach() for part in state)
            logits, state = model(text[begin : begin + 5], state)
            model.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), text[begin + 1 : begin + 6].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()


def recurrent_with_dropout_and_packing(tell):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(12, 6, padding_idx=0)
            self.rnn = nn.GRU(6, 4, 2, dropout=0.2, bidirectional=True, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(
                self.embed(x), lengths, batch_first=True, enforce_sorted=False
            )
            hidden, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.out(hidden)

    model = Tagger()
    optimizer = _adam(model, tell)
    for x in TOKENS.split(4):
        lengths = torch.tensor([9, 3, 5, 1])
        tags = torch.where(torch.arange(9) < lengths[:, None], x % 3, -100)
        optimizer.zero_grad()
        logits = model(x, lengths)
        F.cross_entropy(logits.reshape(-1, 3), tags.reshape(-1)).backward()
        optimizer.step()


def sequence_to_sequence(tell):
    """Padding is ignored, and some batches have few targets; every other one forces the teacher."""

    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(12, 6, padding_idx=0)
            self.reads, self.writes = nn.GRU(6, 6, batch_first=True), nn.GRUCell(6, 6)
            self.out = nn.Linear(6, 12)

        def forward(self, source, target, forced):
            _, hidden = self.reads(self.embed(source))
            hidden, token, made = hidden[0], torch.ones(len(source), dtype=torch.long), []
            for k in range(target.shape[1]):
                hidden = self.writes(self.embed(token), hidden)
                made.append(self.out(hidden))
                token = target[:, k] if forced else made[-1].argmax(1)
            return torch.stack(made, 1)

    model = Translator()
    optimizer = _adam(model, tell)
    loss_fn = nn.CrossEntropyLoss(ignore_index=0)
    for number, x in enumerate(TOKENS.split(4) * 2):
        target = x.flip(1).clone()
        target[:, 1 + number :] = 0
        logits = model(x, target, forced=number % 2 == 0)
        optimizer.zero_grad()
        loss_fn(logits.flatten(0, 1), target.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()


class _Gpt(nn.Module):
    """A decoder whose output weights are those of its embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding(12, 8), nn.Embedding(16, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.embed(x) + self.places(torch.arange(x.shape[1]))
        return self.out(self.body(x, mask=mask, is_causal=True))


def transformer_with_tied_embeddings(tell):
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tell(model, optimizer)
    for x in TOKENS.split(4) * 2:
        logits = model(x[:, :-1])
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.view(-1, 12), x[:, 1:].reshape(-1)).backward()
        optimizer.step()


def writing_between_epochs(tell):
    """Text is sampled in eval mode between the epochs, token by token."""
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tell(model, optimizer)
    for _ in range(2):
        model.train()
        for x in TOKENS.split(4):
            logits = model(x[:, :-1])
            optimizer.zero_grad()
            F.cross_entropy(logits.transpose(1, 2), x[:, 1:]).backward()
            optimizer.step()
        model.eval()
        written = torch.ones(1, 1, dtype=torch.long)
        with torch.no_grad():
            for _ in range(4):
                chances = F.softmax(model(written)[:, -1], dim=-1)
                written = torch.cat([written, torch.multinomial(chances, 1)], 1)


def masked_language_model(tell):
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tell(model, optimizer)
    for x in TOKENS.split(4) * 2:
        hidden = torch.rand(x.shape) < 0.15
        hidden[0, 0] = True
        logits = model(x.masked_fill(hidden, 0))
        optimizer.zero_grad()
        F.cross_entropy(logits.view(-1, 12), x.masked_fill(~hidden, -100).view(-1)).backward()
        optimizer.step()


def attention_by_hand(tell):
    """A softmax over places is no softmax over classes."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.score, self.out = nn.Embedding(12, 6), nn.Linear(6, 1), nn.Linear(6, 3)

        def forward(self, x):
            x = self.embed(x)
            return self.out((self.score(x).softmax(1) * x).sum(1))

    model = Pool()
    optimizer = _adam(model, tell)
    for x in TOKENS.split(8) * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, 0] % 3).backward()
        optimizer.step()


def experts_that_are_not_used(tell):
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(4, 4)
            self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(4))

        def forward(self, x):
            weights = self.gate(x).softmax(1) * torch.tensor([1.0, 1.0, 0.5, 0.0])
            chosen = weights.argmax(1)
            result = x.new_zeros(len(x), 3)
            for k, expert in enumerate(self.experts):
                rows = (chosen == k).nonzero().squeeze(1)
                if len(rows):
                    result[rows] = weights[rows, k : k + 1] * expert(x[rows])
            return result

    model = Mixture()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    tell(model, optimizer)
    for x, y in zip(X.split(8), CLASSES.split(8), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def one_head_of_each_batch(tell):
    """Tasks take turns, so that the other head has no gradient."""
    model = nn.ModuleDict(
        {"body": nn.Linear(4, 8), "first": nn.Linear(8, 3), "second": nn.Linear(8, 1)}
    )
    optimizer = _adam(model, tell)
    for number, (x, y) in enumerate(zip(X.split(8), CLASSES.split(8), strict=True)):
        hidden = model["body"](x).relu()
        optimizer.zero_grad()
        if number % 2:
            F.cross_entropy(model["first"](hidden), y).backward()
        else:
            F.mse_loss(model["second"](hidden).squeeze(1), x.sum(1)).backward()
        optimizer.step()


def layers_dropped_by_chance(tell):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            for layer in self.layers:
                if not self.training or torch.rand(()) < 0.5:
                    x = x + layer(x).relu()
            return self.head(x)

    model = Deep()
    optimizer = _adam(model, tell)
    for x, y in zip(X.split(4), CLASSES.split(4), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def auxiliary_head_in_training_alone(tell):
    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.extra = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)
            self.drop = nn.Dropout(0.2)

        def forward(self, x):
            hidden = self.drop(self.body(x).relu())
            return (self.head(hidden), self.extra(hidden)) if self.training else self.head(hidden)

    model = Inception()
    optimizer = _adam(model, tell)
    for _ in range(3):
        model.train()
        for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
            logits, extra = model(x)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(extra, y)).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            assert model(X).shape == (64, 3)


def layer_that_is_never_used(tell):
    """A part of a library's model that this task does not need."""
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "spare": nn.Linear(4, 3)})
    optimizer = _adam(model, tell)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model["used"](x), y).backward()
        optimizer.step()


def dropout_at_evaluation(tell):
    """Monte-Carlo dropout: the spread of predictions for one input."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    optimizer = _adam(model, tell)
    for _ in range(2):
        model.train()
        for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        with torch.no_grad():
            for x in X.split(16):
                assert torch.stack([model(x) for _ in range(5)]).std(0).sum() > 0


def dropout_at_evaluation_of_one_input(tell):
    """As before, with the whole model left in train mode."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    optimizer = _adam(model, tell)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.stack([model(X) for _ in range(10)]).std(0).sum() > 0


def bayes_by_backprop(tell):
    class Bayes(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(3, 4))
            self.rho = nn.Parameter(torch.full((3, 4), -3.0))

        def forward(self, x):
            return F.linear(x, self.mean + F.softplus(self.rho) * torch.randn_like(self.mean))

    model = Bayes()
    optimizer = _adam(model, tell)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        likely = sum(F.cross_entropy(model(x), y) for _ in range(3)) / 3
        optimizer.zero_grad()
        (likely + 0.01 * model.mean.pow(2).sum()).backward()
        optimizer.step()


def graph_convolution(tell):
    """One graph: rows of a mask are trained on, others validated, in every epoch."""

    class Gcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, edges):
            x = F.dropout(F.relu(edges @ self.first(x)), 0.5, self.training)
            return edges @ self.last(x)

    edges = (torch.rand(64, 64) < 0.1).float() + torch.eye(64)
    edges = edges / edges.sum(1, keepdim=True)
    train = torch.rand(64) < 0.5
    model = Gcn()
    optimizer = _adam(model, tell)
    for _ in range(5):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(X, edges)[train], CLASSES[train]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            assert F.cross_entropy(model(X, edges)[~train], CLASSES[~train]) > 0


def matrix_factorization():
    """Sparse gradients: most rows of a table are in no batch."""
    users, items = nn.Embedding(20, 4, sparse=True), nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam([*users.parameters(), *items.parameters()], lr=0.01)
    for _ in range(6):
        u, i = torch.randint(20, (8,)), torch.randint(10, (8,))
        optimizer.zero_grad()
        F.mse_loss((users(u) * items(i)).sum(1), torch.rand(8)).backward()
        optimizer.step()


def sparse_and_dense(tell):
    model = nn.Sequential(nn.EmbeddingBag(12, 4, sparse=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x in TOKENS.split(4) * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, 0] % 3).backward()
        optimizer.step()


def embedding_with_untouched_rows(tell):
    """Rows that are in no batch stay as they are."""
    model = nn.Sequential(nn.Embedding(1000, 4), nn.Flatten(), nn.Linear(36, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x in TOKENS.split(4) * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, 0] % 3).backward()
        optimizer.step()


def dead_units(tell):
    """A layer whose gradients are all zero, as nothing passes its activation."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tell(model, optimizer)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def lazy_layers(tell):
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    model(X[:2])
    optimizer = _adam(model, tell)
    for x, y in zip(X.split(16), CLASSES.split(16), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

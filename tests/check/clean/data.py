"""Where batches come from, and evaluations between epochs."""

import random

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import data
from torch.utils.data import DataLoader, TensorDataset

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 4, generator=GENERATOR)
Y = X.sum(1, keepdim=True)
DATA = TensorDataset(X, Y)


def _parts():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def _epoch(model, optimizer, batches):
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def shuffled(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(DATA, batch_size=8, shuffle=True)
    for _ in range(4):
        _epoch(model, optimizer, loader)


def shuffled_by_workers(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(DATA, batch_size=8, shuffle=True, num_workers=2)
    for _ in range(2):
        _epoch(model, optimizer, loader)


def shuffled_by_hand(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    for _ in range(4):
        order = torch.randperm(len(X))
        _epoch(model, optimizer, ((X[rows], Y[rows]) for rows in order.split(8)))


def drawn_with_replacement(tell):
    """Balanced classes by a weighted sampler: rows come again within an epoch."""
    model, optimizer = _parts()
    tell(model, optimizer)
    weights = torch.where(X[:, 0] > 0, 1.0, 3.0)
    sampler = data.WeightedRandomSampler(weights, len(X))
    loader = DataLoader(DATA, batch_size=8, sampler=sampler)
    for _ in range(3):
        _epoch(model, optimizer, loader)


class _Stream(data.IterableDataset):
    """An endless source, of which each worker makes its own rows."""

    def __iter__(self):
        worker = data.get_worker_info()
        source = torch.Generator().manual_seed(0 if worker is None else worker.seed)
        for _ in range(10):
            x = torch.randn(8, 4, generator=source)
            yield x, x.sum(1, keepdim=True)


def stream(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    _epoch(model, optimizer, DataLoader(_Stream(), batch_size=None))


def stream_in_the_same_order(tell):
    """A stream that cannot be shuffled gives the same batches in every epoch."""
    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(_Stream(), batch_size=None)
    for _ in range(3):
        _epoch(model, optimizer, loader)


def made_as_needed(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    for _ in range(10):
        x = torch.randn(8, 4)
        _epoch(model, optimizer, [(x, x.sum(1, keepdim=True))])


def one_batch_overfitted(tell):
    """The first thing to try: does the model fit one batch?"""
    model, optimizer = _parts()
    tell(model, optimizer)
    x, y = next(iter(DataLoader(DATA, batch_size=8, shuffle=True)))
    for _ in range(30):
        _epoch(model, optimizer, [(x, y)])


def whole_data_in_one_batch(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(DATA, batch_size=len(DATA))
    for _ in range(6):
        _epoch(model, optimizer, loader)


def train_and_validation(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    parts = data.random_split(DATA, [72, 24])
    train = DataLoader(parts[0], batch_size=8, shuffle=True, drop_last=True)
    validation = DataLoader(parts[1], batch_size=8)
    for _ in range(4):
        _epoch(model, optimizer, train)
        model.eval()
        with torch.no_grad():
            losses = [F.mse_loss(model(x), y).item() for x, y in validation]
        assert len(losses) == 3


def evaluated_in_inference_mode(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    train, validation = DataLoader(DATA, 8, shuffle=True), DataLoader(DATA, 16)

    @torch.inference_mode()
    def evaluate():
        model.eval()
        return sum(F.mse_loss(model(x), y, reduction="sum").item() for x, y in validation)

    evaluate()
    for _ in range(3):
        _epoch(model, optimizer, train)
        evaluate()


def evaluated_within_an_epoch(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    train, validation = DataLoader(DATA, 8, shuffle=True), DataLoader(DATA, 16)
    for _ in range(3):
        for number, (x, y) in enumerate(train):
            model.train()
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            if number % 5 == 4:
                model.eval()
                with torch.no_grad():
                    for x, y in validation:
                        F.mse_loss(model(x), y)


def evaluated_without_dropout_in_the_model(tell):
    """Nothing in the model knows of modes, so that none is set."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    for _ in range(3):
        for x, y in DataLoader(DATA, 8, shuffle=True):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, y in DataLoader(DATA, 16):
                F.mse_loss(model(x), y)


def trained_in_eval_mode_without_dropout(tell):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tell(model, optimizer)
    for x, y in DataLoader(DATA, 8, shuffle=True):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


def evaluation_with_gradients_on(tell):
    """Nobody asked for no_grad, which costs memory and nothing else."""
    model, optimizer = _parts()
    tell(model, optimizer)
    for _ in range(3):
        _epoch(model, optimizer, DataLoader(DATA, 8, shuffle=True))
        model.eval()
        losses = [F.mse_loss(model(x), y).item() for x, y in DataLoader(DATA, 16)]
        assert losses


def tested_at_the_end(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    for _ in range(2):
        _epoch(model, optimizer, DataLoader(DATA, 8, shuffle=True))
    model.eval()
    with torch.no_grad():
        made = torch.cat([model(x) for x, _ in DataLoader(DATA, 8)])
    assert made.shape == Y.shape


def augmented(tell):
    model, optimizer = _parts()
    tell(model, optimizer)

    def noisy(rows):
        x, y = data.default_collate(rows)
        return x + 0.1 * torch.randn_like(x), y

    loader = DataLoader(DATA, batch_size=8, shuffle=True, collate_fn=noisy)
    for _ in range(3):
        _epoch(model, optimizer, loader)


def buckets_of_lengths(tell):
    """Batches of equal lengths, in a new order each epoch."""

    class Batches(data.Sampler):
        def __init__(self):
            rows = list(range(len(X)))
            self.batches = [rows[k : k + 8] for k in range(0, len(X), 8)]

        def __len__(self):
            return len(self.batches)

        def __iter__(self):
            random.Random(0).shuffle(self.batches)
            return iter(self.batches)

    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(DATA, batch_sampler=Batches())
    for _ in range(4):
        _epoch(model, optimizer, loader)


def two_loaders_side_by_side(tell):
    """Labelled and unlabelled batches, the shorter loader begun again when it ends."""
    model, optimizer = _parts()
    tell(model, optimizer)
    labelled = DataLoader(TensorDataset(X[:16], Y[:16]), batch_size=8, shuffle=True)
    unlabelled = DataLoader(TensorDataset(X), batch_size=8, shuffle=True)
    source = iter(labelled)
    for (u,) in unlabelled:
        try:
            x, y = next(source)
        except StopIteration:
            source = iter(labelled)
            x, y = next(source)
        optimizer.zero_grad()
        alike = F.mse_loss(model(u), model(u + 0.1 * torch.randn_like(u)).detach())
        (F.mse_loss(model(x), y) + 0.1 * alike).backward()
        optimizer.step()


def many_equal_rows(tell):
    """Categories alone: equal rows are many, and so are equal small batches."""
    model, optimizer = _parts()
    tell(model, optimizer)
    x = torch.randint(2, (96, 4)).float()
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=1, shuffle=True)
    for _ in range(2):
        _epoch(model, optimizer, loader)


def seeded_loader(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    loader = DataLoader(DATA, 8, shuffle=True, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        _epoch(model, optimizer, loader)


def distributed_sampler(tell):
    model, optimizer = _parts()
    tell(model, optimizer)
    sampler = data.DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=True)
    loader = DataLoader(DATA, batch_size=8, sampler=sampler)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        _epoch(model, optimizer, loader)


def updated_without_batches_of_a_loader(tell):
    """A table is asked for batches by its own class."""
    model, optimizer = _parts()
    tell(model, optimizer)
    for _ in range(3):
        for k in range(0, 96, 8):
            optimizer.zero_grad()
            F.mse_loss(model(X[k : k + 8]), Y[k : k + 8]).backward()
            optimizer.step()

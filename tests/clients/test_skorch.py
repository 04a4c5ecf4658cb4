"""skorch: fit, a learning rate set between fits, a scheduler, and nets saved and pickled."""

import pickle

import pytest
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler
from torch import nn


class Net(nn.Module):
    """Hold a model, because skorch makes its own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def regressors(pair, model, **options):
    """A net for each side; rows are taken in order."""
    return [
        NeuralNetRegressor(
            Net,
            module__net=model(),
            optimizer=kind,
            train_split=None,
            max_epochs=3,
            batch_size=8,
            verbose=0,
            **{f"optimizer__{name}": value for name, value in chosen.items()},
            **options,
        )
        for kind, chosen in zip(pair[:2], pair[2:], strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"callbacks": [("schedule", LRScheduler("StepLR", step_size=1, gamma=0.5))]}],
    ids=["plain", "scheduled"],
)
def test_trains_to_the_same_parameters(options, pair, model, data, same):
    nets = regressors(pair, model, **options)
    for net in nets:
        net.fit(*data)
        net.set_params(optimizer__lr=0.001)
        net.partial_fit(*data)
    same(*(net.module_.net for net in nets))


def test_resumes_from_files_and_from_a_pickle(pair, model, data, same, tmp_path):
    ours, reference = regressors(pair, model)
    files = {f"f_{part}": str(tmp_path / part) for part in ("params", "optimizer", "history")}
    ours.fit(*data).save_params(**files)
    pickled = pickle.loads(pickle.dumps(ours))
    loaded = regressors(pair, lambda: model(seed=3))[0].initialize()
    loaded.load_params(**files)
    reference.fit(*data).partial_fit(*data)
    for again in (pickled, loaded):
        again.partial_fit(*data)
        same(again.module_.net, reference.module_.net)

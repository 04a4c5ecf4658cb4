"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import steepest

SLOW = ("numba", "llvmlite", "rich", "matplotlib", "polars", "tyro")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_public_name_is_there():
    assert dir(steepest) == steepest.__all__
    for name in steepest.__all__:
        assert getattr(steepest, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        steepest.trian


@pytest.mark.parametrize(
    "before",
    ["", "import steepest.train", "from steepest.train import Run", "import steepest.train.run"],
)
def test_train_can_be_called_however_its_room_was_imported(before):
    said = in_a_fresh_process(
        f"{before}\nimport steepest\nfrom steepest import train\nimport steepest.train as room\n"
        "assert train is steepest.train is room\nassert room.Run is steepest.Run\n"
        "room.__class__.__call__.__globals__['train'] = lambda run: print('trains', run)\n"
        "train(1)"
    )
    assert said == "trains 1"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import steepest", ("torch", *SLOW)),
        ("import steepest.optim", SLOW),
        ("import steepest.schedules", SLOW),
        ("import steepest.clip", SLOW),
        ("import steepest.cli", ("torch", *SLOW)),
        ("from steepest import Run, train", ("numba", "matplotlib", "polars", "tyro")),
    ],
)
def test_an_import_leaves_slow_packages_alone(statement, absent):
    said = in_a_fresh_process(
        f"import sys\n{statement}\nprint([name for name in {absent!r} if name in sys.modules])"
    )
    assert said == "[]"


def test_a_step_and_a_checkpoint_do_not_import_the_compiler():
    said = in_a_fresh_process(
        "import sys, torch\nimport steepest.optim as optim\n"
        "p = torch.ones(3, requires_grad=True)\np.grad = torch.ones(3)\n"
        "optimizer = optim.SGD([p], lr=0.1)\noptimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\noptimizer.zero_grad()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert said == "False"

"""`steepest check`: a script behaves as without it, and its mistakes are named."""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

LOOP = """
    import os
    os.environ["OMP_NUM_THREADS"] = "1"
    import random
    import sys
    import torch
    from torch import nn
    print("threads", torch.get_num_threads(), "words", sys.argv[1:], __name__, __file__)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(5):
        loss = nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1))
        {zero_grad}
        loss.backward()
        optimizer.step()
        print(step, loss.item().hex(), random.random() if step < 0 else "")
    print(model[0].weight.sum().item().hex(), torch.rand(1).item().hex())
    {end}
"""


def written(folder: Path, zero_grad: str = "optimizer.zero_grad()", end: str = "") -> Path:
    path = folder / "loop.py"
    path.write_text(dedent(LOOP).format(zero_grad=zero_grad, end=end))
    return path


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def checked(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from steepest.cli.check import main; sys.exit(main(sys.argv[1:]))"
    return ran(folder, "-c", code, *words)


def test_a_right_script_runs_as_without(tmp_path: Path):
    written(tmp_path)
    plain, watched = ran(tmp_path, "loop.py", "--a", "b"), checked(tmp_path, "loop.py", "--a", "b")
    assert plain.stdout.startswith("threads 1 words ['--a', 'b'] __main__")
    assert (watched.stdout, watched.returncode) == (plain.stdout, 0)
    assert watched.stderr == "steepest check: no mistake found\n"


def test_a_wrong_script_runs_as_without_and_its_mistake_is_told(tmp_path: Path):
    script = written(tmp_path, zero_grad="pass")
    line = script.read_text().splitlines().index("    loss.backward()") + 1
    plain = ran(tmp_path, "loop.py")
    watched = checked(tmp_path, "--json", "found.json", "loop.py")
    assert (watched.stdout, watched.returncode) == (plain.stdout, 1)
    assert f"loop.py:{line}: SC101 zero_grad is missing (step 1)" in watched.stderr
    assert "mend: optimizer.zero_grad()" in watched.stderr
    assert watched.stderr.endswith("steepest check: 1 mistake found\n")
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert (found["code"], found["kind"], found["where"]["line"]) == ("SC101", "fact", line)


def test_it_stops_at_the_first_mistake(tmp_path: Path):
    written(tmp_path, zero_grad="pass", end="print('the end')")
    watched = checked(tmp_path, "--stop", "loop.py")
    assert watched.returncode == 1
    assert "the end" not in watched.stdout
    assert "SC101" in watched.stderr
    assert "Traceback" not in watched.stderr


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("nn.functional.mse_loss(model(torch.randn(8, 2)), torch.zeros(8))", 2),
        ("sys.exit(7)", 7),
        ("nn.functional.mse_loss(torch.zeros(2, 1), torch.zeros(2))", 0),
        ("nn.MSELoss()(torch.zeros(2, 1), torch.zeros(2))", 0),
        ("torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters()), 1).step()", 0),
        ("sys.exit('a word')", 1),
        ("raise KeyError('a') from ValueError('b')", 2),
        ("torch.zeros(1, requires_grad=True).mul(2).sum().backward('nonsense')", 2),
    ],
)
def test_what_a_script_raises_is_its_own(tmp_path: Path, end: str, code: int):
    written(tmp_path, end=end)
    plain, watched = ran(tmp_path, "loop.py"), checked(tmp_path, "loop.py")
    said = watched.stderr.removesuffix("steepest check: no mistake found\n")
    assert (watched.stdout, watched.returncode) == (plain.stdout, code)
    assert said == plain.stderr


def test_a_module_is_run_as_python_does(tmp_path: Path):
    (tmp_path / "package").mkdir()
    written(tmp_path / "package", zero_grad="pass")
    plain, watched = ran(tmp_path, "-m", "package.loop"), checked(tmp_path, "-m", "package.loop")
    assert (watched.stdout, watched.returncode) == (plain.stdout, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "^usage: steepest check"),
        (["--help"], "^usage: steepest check"),
        (["absent.py"], "there is no file absent.py"),
        (["--stop"], "check runs a script: got none"),
        (["--stpo", "a.py"], "check: .*--stpo"),
    ],
)
def test_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    from steepest.cli.check import main
    from steepest.errors import RecipeError

    try:
        assert main(words) == 0
        told = capsys.readouterr().out
    except RecipeError as error:
        told = str(error)
    assert re.search(said, told)


def test_a_script_without_torch(tmp_path: Path):
    (tmp_path / "loop.py").write_text("print('hello')")
    watched = checked(tmp_path, "loop.py")
    assert (watched.stdout, watched.returncode) == ("hello\n", 0)
    assert "never imported torch" in watched.stderr

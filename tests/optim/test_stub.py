"""The stub for editors is what the classes are, and shows a misspelt keyword before it runs."""

import inspect
import json
import subprocess
import sys

import pytest

from steepest import optim
from steepest.optim import stub

SNIPPET = """
import torch
import steepest.optim as optim

model = torch.nn.Linear(1, 1)
optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, clip_norm=1.0)
optim.Adam(model.named_parameters(), lr=torch.tensor(0.1), betas=(0.9, 0.99), fused=None)
optim.RMSprop([{"params": model.parameters(), "lr": 0.1}], 1e-3, 0.9).step()
optim.lr_scheduler.StepLR(optim.AdamW(list(model.parameters())), 3).step()
optim.AdamW(model.parameters(), lr=lambda step: 0.1 / (step + 1)).step()
optim.Adam(model.parameters(), beta=(0.9, 0.99))  # wrong
optim.SGD(model.parameters(), momentum="0.9")  # wrong
optim.SGD(model.parameters(), 0.1, 0.9, 0.0, 0.0, False, True)  # wrong
"""


def test_the_stub_on_disk_is_current():
    assert stub.PATH.read_text(encoding="utf-8") == stub.stub(), "run python -m steepest.optim.stub"


def test_the_stub_has_every_argument_of_every_optimizer():
    text = stub.stub()
    for name in optim.__all__:
        cls = getattr(optim, name)
        if inspect.isclass(cls) and "formula" in vars(cls) and cls is not optim.Optimizer:
            part = text.partition(f"class {name}(")[2].partition("\nclass ")[0]
            for word in inspect.signature(cls).parameters:
                assert f"        {word}: " in part


def test_a_type_checker_finds_the_wrong_lines_and_no_other(tmp_path):
    pytest.importorskip("pyright")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    answer = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    found = {d["range"]["start"]["line"] for d in json.loads(answer.stdout)["generalDiagnostics"]}
    wrong = {k for k, line in enumerate(SNIPPET.splitlines()) if line.endswith("# wrong")}
    assert found == wrong, answer.stdout

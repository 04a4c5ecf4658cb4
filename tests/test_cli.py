"""The command line: what it prints, what it leaves, and its exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import safetensors.torch

from steepest import __version__
from steepest.cli import main
from steepest.figures import duration
from steepest.train import read_metrics

EXAMPLES = Path(__file__).parents[1] / "examples"
IRIS = f"--data {EXAMPLES / 'iris.csv'} --target species"
FILES = {
    ".lock", "best.safetensors", "checkpoints", "evaluation.json", "loss.png", "metrics.csv",
    "metrics.jsonl", "model.safetensors", "options.json", "run.json",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("recipe_")]:
        del sys.modules[name]


@pytest.fixture
def steepest(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str, str]]:
    def call(words: str) -> tuple[int, str, str]:
        code = main(words.split())
        out, err = capsys.readouterr()
        return code, out, err

    return call


RECIPE = """
    import signal
    from dataclasses import replace
    from pathlib import Path
    from steepest.recipes import line
    from steepest.train import Run
    {top}

    def run(lr=0.05, epochs: int = 2{options}) -> Run:
        '''Mine.

        Args:
            lr: the rate
        '''
        made = line.run(lr=lr, epochs=epochs, rows=400)
        calls, stop = 0, Path("stop")
        stop_at = int(stop.read_text()) if stop.exists() else 0

        def loss_fn(prediction, target):
            nonlocal calls
            calls += made.model.training
            if calls == stop_at:
                signal.raise_signal(signal.{signal})
            return made.loss_fn(prediction, target)
        {body}
        return replace(made, loss_fn=loss_fn, name="mine")
"""


def recipe(
    body: str = "", top: str = "", options: str = "", number: str = "SIGINT", name: str = "mine.py"
) -> str:
    text = RECIPE.format(body=body, top=top, options=options, signal=number)
    Path(name).write_text(dedent(text))
    return name


def test_help_and_version(steepest):
    for words in ("--help", "-h", "", "train", "train --help"):
        code, out, err = steepest(words)
        assert (code, err) == (0, "")
        assert ("steepest predict RUN" in out) == ("train" not in words)
        assert re.search(r"  line +Fit a line to made-up points: y = 3x \+ noise.", out)
    assert steepest("--version") == (0, f"steepest {__version__}\n", "")


@pytest.mark.parametrize("command", ["train", "find-lr", "list", "new", "show"])
def test_a_commands_help_is_its_own(steepest, command):
    code, out, err = steepest(f"{command} --help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: steepest {command}")
    example = out.splitlines()[-1].split()
    assert example[:2] == ["steepest", command]
    if command in ("find-lr", "show", "train"):
        assert steepest(command) == (0, out, "")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from steepest.cli import main; main(['--help']); main(['--version']); "
        "[main([command, '--help']) for command in ('train', 'find-lr', 'list', 'show')]; "
        "print([m for m in ('torch', 'tyro', 'rich', 'matplotlib', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_recipes_help_shows_its_options_and_the_shared_ones(steepest):
    code, out, err = steepest("train line --help")
    assert (code, err) == (0, "")
    for words in ("--lr FLOAT", "learning rate (default: 0.1)", "--folder", "--resume", "--seed"):
        assert words in out


def test_train_line(steepest):
    code, out, err = steepest("train line --lr 0.05 --epochs 2")
    assert code == 0
    lines = out.splitlines()
    assert re.fullmatch(
        r"line: loss \S+, validation loss 0\.01\S* after 2 epochs \(500 updates, \S+ s\)", lines[0]
    )
    assert re.fullmatch(r"  best in epoch [12]: validation loss 0\.01\S*", lines[1])
    assert re.fullmatch(r"  learned y = (2\.99|3\.0)\d* x [+-]0\.0\d+", lines[2])
    assert lines[3:] == [
        "  files in runs/line-1",
        "  resume:  steepest train line --resume runs/line-1 --epochs 4",
        "  report:  steepest report runs/line-1",
    ]
    assert err.splitlines()[-1].startswith("epoch 2/2  step 500  loss")
    assert {path.name for path in Path("runs/line-1").iterdir()} == FILES
    options = json.loads(Path("runs/line-1/options.json").read_text())
    assert options["recipe"] == "line"
    assert options["options"]["lr"] == 0.05
    assert options["options"]["batch_size"] == 32
    model = safetensors.torch.load_file("runs/line-1/model.safetensors")
    assert model["weight"].item() == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("line --rows 100 --epochs 1", "--epochs 2"),
        ("line --rows 100 --steps 2", "--steps 4"),
        ("line --rows 100 --patience 1 --epochs 99", "--patience 2"),
        (f"table {IRIS} --epochs 1 --schedule cosine", "--epochs 2 --override"),
    ],
    ids=["epochs", "steps", "patience", "schedule"],
)
def test_the_command_to_resume_goes_on(steepest, options, more):
    out = steepest(f"train {options}")[1]
    command = re.search(r"resume:  steepest (.*)", out)[1]
    assert command.endswith(f" {more}")
    before, after = out.splitlines()[0], steepest(command)[1].splitlines()[0]
    updates = [int(re.search(r"\((\d+) update", line)[1]) for line in (before, after)]
    assert updates[1] > updates[0]


def test_a_flag_of_every_run_can_be_denied(steepest):
    assert steepest("train line --rows 100 --epochs 1 --no-deterministic")[0] == 0


def test_runs_never_share_a_folder(steepest):
    for _ in range(2):
        assert steepest("train line --epochs 1 --rows 100")[0] == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["line-1", "line-2"]
    assert steepest("train line --epochs 1 --rows 100 --folder a/b")[0] == 0
    assert {path.name for path in Path("a/b").iterdir()} == FILES
    files = [path for path in Path("a/b").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    code, _, err = steepest("train line --folder a/b")
    assert code == 2
    assert "a/b is not empty" in err
    assert {path: path.read_bytes() for path in files} == before
    assert steepest("train line --resume a/b --epochs 2")[0] == 0


def test_train_table(steepest):
    code, out, err = steepest(
        f"train table {IRIS} --hidden 8 8 --optimizer SGD --schedule cosine --epochs 40 --lr 0.1"
    )
    assert code == 0
    assert "note: target 'species' holds text: taken as classification" in err
    assert "accuracy" in out
    options = json.loads(Path("runs/table-1/options.json").read_text())["options"]
    assert (options["hidden"], options["optimizer"]) == ([8, 8], "SGD")


def test_train_a_recipe_of_ones_own(steepest):
    code, out, _ = steepest(f"train {recipe()} --lr 3e-2")
    assert code == 0
    assert out.startswith("mine: loss")
    options = json.loads(Path("runs/mine-1/options.json").read_text())
    assert (options["recipe"], options["options"]["lr"]) == ("mine.py", 0.03)


def test_a_run_without_a_name_is_called_by_its_recipes_file(steepest):
    Path("deep").mkdir()
    path = recipe(name="deep/fit.py")
    assert steepest(f"train {path} --folder a")[1].startswith("mine: loss")
    Path(path).write_text(Path(path).read_text().replace('name="mine"', "name=Run.name"))
    assert steepest(f"train {path} --folder b")[1].startswith("fit: loss")
    assert json.loads(Path("b/run.json").read_text())["name"] == "fit"


def test_a_recipe_may_choose_its_folder(steepest):
    path = recipe("made = replace(made, folder='chosen')")
    assert steepest(f"train {path}")[0] == 0
    assert {path.name for path in Path("chosen").iterdir()} == FILES
    assert steepest(f"train {path}")[0] == 2
    assert steepest(f"train {path} --folder other")[0] == 0
    assert not Path("runs").exists()


def test_a_model_that_cannot_be_written_fails_the_run(steepest):
    in_the_way = "lambda p, t: (Path('a/loss.png.tmp').mkdir(exist_ok=True), 0.0)[1]"
    path = recipe(f"made = replace(made, folder='a', metrics={{'x': {in_the_way}}})")
    code, _, err = steepest(f"train {path}")
    assert code == 1
    assert "a/loss.png could not be written" in err.splitlines()[-1]


def test_a_recipe_may_import_its_neighbour(steepest):
    Path("neighbour.py").write_text("LR = 0.01\n")
    assert steepest(f"train {recipe(top='import neighbour')}")[0] == 0
    sys.modules.pop("neighbour")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stopped_run_says_how_to_go_on_and_does(steepest, number: str, code: int):
    path = recipe(number=number)
    Path("stop").write_text("7")
    stopped, out, err = steepest(f"train {path} --lr 0.02")
    Path("stop").unlink()
    assert (stopped, out) == (code, "")
    assert err.splitlines()[-1] == (
        "steepest: stopped after step 7; go on with: steepest train mine.py --resume runs/mine-1"
    )
    code, out, _ = steepest("train mine.py --resume runs/mine-1")
    assert code == 0
    whole, _, _ = steepest("train mine.py --lr 0.02")
    assert whole == 0
    resumed, uninterrupted = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(f"runs/{name}")]
        for name in ("mine-1/metrics.jsonl", "mine-2/metrics.jsonl")
    )
    assert resumed == uninterrupted
    assert len(list(Path("runs").iterdir())) == 2


def test_a_finished_run_goes_on_with_more_epochs(steepest):
    steepest("train line --epochs 1 --rows 100")
    code, out, _ = steepest("train line --resume runs/line-1 --epochs 3")
    assert code == 0
    assert "after 3 epochs (9 updates" in out
    code, out, _ = steepest("train line --resume=runs/line-1")  # 3 epochs are its own by now
    assert "after 3 epochs (9 updates" in out


def test_ctrl_c_in_a_real_process():
    path = recipe(body="import os, time; loss_fn = lambda p, t: (print('on', flush=True), "
                  "time.sleep(0.01), made.loss_fn(p, t))[-1]")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "steepest.cli", "train", path, "--epochs", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"stopped after step \d+; go on with: .*--resume runs/mine-1\n$", err)
    assert "Traceback" not in err
    assert list(Path("runs/mine-1/checkpoints").iterdir())


REFUSED = {
    "trian line": "steepest: There is no command trian (did you mean 'train'?): see st",
    "--hlep": "did you mean '--help'?",
    "train lin": "got 'lin' (did you mean 'line'?)",
    "train absent.py": "there is no file absent.py",
    "train --lr 3 line": "The recipe comes before its options: got --lr first",
    "train line --lrr 3": "steepest: train line has no option --lrr (did you mean '--lr'?): they",
    "train line --zzz=3": "has no option --zzz: they are --lr, --epochs",
    "train line --lr abc": "--lr: could not convert string to float: 'abc'",
    "train line --lr": "Missing value for argument '--lr'",
    "train line --epochs 1.5": "--epochs",
    "train line 3": "Unrecognized options: 3",
    "train line --lr -1": "lr must be at least 0, not -1.0",
    "train line --lr nan": "lr must be",
    "train line --epochs 0": "epochs is a whole number above 0: got 0",
    "train line --batch-size 0": "batch_size is at least 1",
    "train line --seed 99999999999999999999": "seed is a whole number from -2**63 to 2**64 - 1",
    f"train table {IRIS} --seed -99999999999999999999": "seed is a whole number from -2**63",
    f"train table {IRIS} --threads 0": "threads is a whole number above 0: got 0",
    "train line --device nowhere": "got 'nowhere'",
    "train line --resume absent": "there is no folder absent; `steepest runs` lists",
    "train table": "steepest: train table needs --data and --target; see steepest train",
    "train table --data absent.csv --target x": "there is no file absent.csv",
    "train table --data . --target x": "steepest: ",
    f"train table --data {EXAMPLES / 'iris.csv'} --target specie": "did you mean 'species'?",
    f"train table {IRIS} --optimizer Adm": "did you mean 'Adam'?",
    f"train table {IRIS} --schedule cosin": "cosin",
    f"train table {IRIS} --task regression": "species",
    f"train table {IRIS} --hidden 0": "hidden holds widths of at least 1",
    "show": None,
    "show Adm": "got Adm (did you mean 'Adam'?)",
    "show Adam --lrr 3": "did you mean 'lr'?",
    "show Adam --lr x": "--lr is a number, True, False or a tuple: got x",
    "show Adam --lr -1": "lr must be at least 0",
    "show Adam lr": "A hyperparameter is given as --momentum 0.9: got lr",
    "list all": "steepest: list takes no option: got all",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused(steepest, words: str, message: str | None):
    code, out, err = steepest(words)
    if message is None:
        assert (code, err) == (0, "")
        return
    assert code == 2
    assert out == ""
    assert err.startswith(("steepest: ", "note: "))
    assert message in err.splitlines()[-1]
    assert len([line for line in err.splitlines() if line.startswith("steepest: ")]) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_tyro_refuses_is_one_sentence_in_any_encoding(encoding: str):
    done = subprocess.run(
        [sys.executable, "-m", "steepest.cli", "new", "a.py", "b.py"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.stderr == "steepest: Unrecognized options: b.py; see steepest new --help\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py has none; write `def run(lr=0.1) -> Run: ...`"),
        ("run = 3", "mine.py has none"),
        ("def run(): return 3", "A recipe returns a Run: mine.py returned int"),
        ("def run(**options): pass", "names its options one by one: got **options"),
        ("def run(folder=''): pass", "folder is the command line's own option: rename yours"),
    ],
)
def test_a_recipe_that_is_none_is_refused(steepest, text: str, message: str):
    Path("mine.py").write_text(text)
    code, _, err = steepest("train mine.py")
    assert code == 2
    assert message in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "text",
    ["def run(: pass", "import absent_module", "def run(): return 1 / 0"],
    ids=["syntax", "import", "bug"],
)
def test_a_bug_in_a_recipe_shows_its_traceback(text: str):
    Path("mine.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "steepest.cli", "train", "mine.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "mine.py" in done.stderr
    assert re.search("SyntaxError|ModuleNotFoundError|ZeroDivisionError", done.stderr)


def test_a_recipe_gives_the_same_weights_each_time(steepest):
    random = "random.random() + np.random.rand()"
    Path("mine.py").write_text(
        "import random\nimport numpy as np\nfrom torch import nn\n"
        "from steepest import Run, optim\nfrom steepest.data import Batches, synthetic\n"
        "def run(SEED):\n"
        "    model = nn.Linear(1, 1)\n"
        f"    nn.init.constant_(model.bias, {random})\n"
        "    return Run(model=model, optimizer=optim.SGD(model.parameters(), lr=1e-6), epochs=1,\n"
        "               loss_fn=nn.MSELoss(), batches=Batches(*synthetic.line(rows=100)))\n"
    )
    text = Path("mine.py").read_text()
    weights = []
    for signature, words in [("", ""), ("", ""), ("seed=0", ""), ("seed=0", "--seed 1")]:
        Path("mine.py").write_text(text.replace("SEED", signature))
        assert steepest(f"train mine.py {words}")[0] == 0
        path = f"runs/mine-{len(weights) + 1}/model.safetensors"
        weights.append([v.item() for v in safetensors.torch.load_file(path).values()])
    assert weights[0] == weights[1] == weights[2]
    assert weights[0][0] != weights[3][0]
    assert weights[0][1] != weights[3][1]


@pytest.mark.parametrize(
    ("end", "code", "said"), [("'no data'", 1, "no data\n"), ("3", 3, ""), ("", 0, "")]
)
def test_a_recipe_may_end_the_command(steepest, end: str, code: int, said: str):
    Path("mine.py").write_text(f"import sys\ndef run(): sys.exit({end})")
    assert steepest("train mine.py") == (code, "", said)


def test_a_loss_that_is_not_finite_fails_the_run(steepest):
    code, out, err = steepest("train line --lr 1e9")
    assert (code, out) == (1, "")
    assert "The loss is a finite number at every step: it was" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 0.5", "lr was 0.1 and is now 0.5"),
        ("--folder other", "stays in its folder, runs/line-1: leave --folder out"),
    ],
)
def test_a_run_resumes_with_its_own_options(steepest, words: str, message: str):
    steepest("train line --epochs 1 --rows 100")
    before = Path("runs/line-1/options.json").read_bytes()
    code, _, err = steepest(f"train line --resume runs/line-1 {words}")
    assert code == 2
    assert message in err
    code, _, err = steepest(f"train table {IRIS} --resume runs/line-1")
    assert code == 2
    assert "is of line, got table" in err
    assert Path("runs/line-1/options.json").read_bytes() == before


def test_a_refused_resume_leaves_the_options_as_they_were(steepest):
    steepest("train line --epochs 1 --rows 100 --folder out")
    assert steepest("train line --resume out --epochs 3")[0] == 0
    before = Path("out/options.json").read_bytes()
    code, _, err = steepest("train line --resume out --epochs 1")
    assert code == 2
    assert "The checkpoint has 3 epochs behind it" in err
    assert Path("out/options.json").read_bytes() == before
    assert steepest("train line --resume out")[0] == 0
    for path in Path("out/checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert steepest("train line --resume out --epochs 5")[0] == 2
    assert Path("out/options.json").read_bytes() == before


def test_the_options_hold_one_epochs_however_often_a_run_resumes(steepest):
    steepest("train line --rows 100 --epochs 1 --folder out")
    for epochs in ("--epochs 2", "--epochs=3", "--lr 0.1 --epochs 4", "", "--lr 0.1"):
        assert steepest(f"train line --resume out {epochs}")[0] == 0
    options = json.loads(Path("out/options.json").read_text())
    assert options["arguments"] == ["--rows", "100", "--epochs", "4", "--lr", "0.1"]
    assert options["options"]["epochs"] == 4


def test_options_that_cannot_be_written_are_told(steepest):
    steepest("train line --rows 100 --epochs 1 --folder out")
    before = Path("out/options.json").read_bytes()
    Path("out/options.json.tmp").mkdir()
    code, _, err = steepest("train line --resume out --epochs 2")
    assert code == 2
    assert "out/options.json could not be written" in err.splitlines()[-1]
    assert Path("out/options.json").read_bytes() == before


def test_a_folder_without_a_checkpoint_has_none_to_resume_from(steepest):
    assert steepest("train line --epochs 1 --folder out")[0] == 0
    shutil.rmtree("out/checkpoints")
    code, _, err = steepest("train line --folder out")
    assert code == 2
    assert "out is not empty; choose another" in err
    assert "--resume" not in err
    code, _, err = steepest("train line --resume out --epochs 2")
    assert code == 2
    assert "out/checkpoints has no checkpoint; begin a new run" in err
    assert "No such file" not in err


def test_a_recipe_is_the_same_by_any_path(steepest):
    recipe()
    assert steepest("train mine.py --folder out")[0] == 0
    for epochs, path in enumerate(("./mine.py", Path("mine.py").resolve(), "x/../mine.py"), 3):
        Path("x").mkdir(exist_ok=True)
        assert steepest(f"train {path} --resume out --epochs {epochs}")[0] == 0
    code, _, err = steepest(f"train {recipe(name='other.py')} --resume out")
    assert code == 2
    assert "got other.py" in err


def test_a_damaged_checkpoint_is_refused(steepest):
    steepest("train line --epochs 1 --rows 100")
    paths = sorted(Path("runs/line-1/checkpoints").iterdir(), reverse=True)
    for path in paths:
        path.write_bytes(path.read_bytes()[:1000])
    code, _, err = steepest("train line --resume runs/line-1 --epochs 2")
    assert code == 2
    assert f"No checkpoint in runs/line-1/checkpoints is whole: {paths[0]} " in err


def test_a_folder_in_the_way_of_a_file_is_refused(steepest):
    Path("runs").write_text("")
    code, _, err = steepest("train line")
    assert code == 2
    assert "The folder runs cannot be made" in err


def test_list_names_every_optimizer_and_its_paper(steepest):
    from steepest.explain import optimizer_names

    code, out, _ = steepest("list")
    assert code == 0
    names = optimizer_names()
    assert {"SGD", "Adam", "AdamW"} <= set(names)
    assert [line.split()[0] for line in out.splitlines()[::2]] == names
    assert all("https://" in line for line in out.splitlines()[1::2])


def test_show_follows_the_hyperparameters(steepest):
    plain, momentum = steepest("show SGD"), steepest("show SGD --momentum=0.9 --nesterov")
    assert plain[0] == momentum[0] == 0
    for _, out, _ in (plain, momentum):
        for part in ("# formula\n", "def sgd(", "# plan: ", "# kernel", "p[_i] = "):
            assert part in out
    assert "momentum_buffer[_i]" not in plain[1]
    assert "momentum_buffer[_i]" in momentum[1]


def test_show_says_what_has_no_kernel(steepest):
    code, out, _ = steepest("show LBFGS --line-search-fn 'strong_wolfe'")
    assert code == 0
    for part in ("# no formula", "Nocedal & Wright 2006", "history_size: how many updates"):
        assert part in out
    code, out, _ = steepest("show SparseAdam")
    assert code == 0
    assert "def sparse_adam(" in out
    assert out.endswith(
        "# kernel\nnone: the formula runs on the rows of a sparse gradient, gathered by torch\n"
    )


def test_an_optimizer_that_the_loop_cannot_serve_is_refused_before_the_run(steepest):
    code, _, err = steepest(f"train table {IRIS} --optimizer LBFGS")
    assert code == 2
    assert "optimizer LBFGS evaluates the loss several times" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (61.4, "1 min 1 s"),
        (3725, "1 h 2 min"),
        (1e5, "1 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text

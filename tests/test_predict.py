"""steepest predict: the trained model over the same transform, whatever the new rows are like."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

from steepest.cli import main
from steepest.data import Transform, delimited, read_table
from steepest.errors import CheckpointError, DataError, RecipeError
from steepest.predict import Predictor, load_predictor
from steepest.recipes import table
from steepest.train.files.checkpoint import load_weights, save_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
IRIS, DIABETES = EXAMPLES / "iris.csv", EXAMPLES / "diabetes.csv"
ROOMS = pl.DataFrame(
    {
        "rooms": [1, 2, 3, 4, 5, None] * 5,
        "city": ["Oslo", "Rome", "Bonn"] * 10,
        "zip": ["01234", "1234", "99999"] * 10,
        "since": [f"2024-02-{day:02}" for day in range(1, 31)],
        "garden": [True, False] * 15,
        "price": [100.5 + i for i in range(30)],
    }
).filter(pl.col("since") < "2024-02-30")

MINE = """
    from pathlib import Path
    Path("executed").touch()
    from steepest.recipes.table import run as table
    {network}

    def run(data: Path, hidden: tuple[int, ...] = (3,)):
        return table(data, "price", hidden=hidden, epochs=1)
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each table, in `iris`, `diabetes` and `rooms`, and rooms.csv."""
    folder = tmp_path_factory.mktemp("trained")
    ROOMS.write_csv(folder / "rooms.csv")
    for name, data, words in (
        ("iris", IRIS, "--target species --hidden 5"),
        ("diabetes", DIABETES, "--target progression"),
        ("rooms", folder / "rooms.csv", "--target price --categorical zip --drop since"),
    ):
        words = f"train table --data {data} {words} --epochs 3 --folder {folder / name}"
        assert main(words.split()) == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may damage, and the folder that it is in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predict(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    def call(words: str) -> tuple[int, str]:
        code = main(["predict", *shlex.split(words)])
        out, err = capsys.readouterr()
        return code, out + err

    return call


def test_a_run_that_has_kept_no_weights_yet_is_told(runs, predict):
    for name in ("best", "model"):
        (runs / "diabetes" / f"{name}.safetensors").unlink()
    code, said = predict("diabetes --data diabetes.csv --out p.csv")
    assert (code, "go on with its training (--resume diabetes)" in said) == (2, True)


def by_hand(folder: Path, frame: pl.DataFrame, hidden: tuple[int, ...] = ()) -> np.ndarray:
    """Return what the last weights give for the rows."""
    transform = Transform.load(folder / "transform.json")
    model = table.network(transform, hidden)
    model.load_state_dict(load_weights(folder / "model.safetensors"))
    with torch.no_grad():
        return model(torch.from_numpy(transform.apply(frame).x)).numpy()


def test_a_regression_is_in_the_targets_own_units(predict, runs):
    code, said = predict(f"diabetes --data {DIABETES} --out p.csv --weights last")
    assert (code, said) == (0, "p.csv: 442 predictions of progression\n")
    rows = read_table(DIABETES)
    target = Transform.load(runs / "diabetes" / "transform.json").target
    expected = by_hand(runs / "diabetes", rows)[:, 0].astype(float) * target.std + target.mean
    got = pl.read_csv("p.csv")
    assert got.columns == ["prediction"]
    np.testing.assert_allclose(got["prediction"], expected, rtol=1e-6)
    assert abs(got["prediction"].mean() - rows["progression"].mean()) < 20


def test_a_classification_has_a_class_and_a_probability_for_each(predict, runs):
    assert predict(f"iris --data {IRIS} --out p.csv --weights last")[0] == 0
    scores = torch.from_numpy(by_hand(runs / "iris", pl.read_csv(IRIS), hidden=(5,)))
    got = pl.read_csv("p.csv")
    names = ["setosa", "versicolor", "virginica"]
    assert got.columns == ["prediction", *(f"probability_{name}" for name in names)]
    assert got["prediction"].to_list() == [names[i] for i in scores.argmax(1)]
    np.testing.assert_allclose(got.drop("prediction"), scores.softmax(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("classes", "names"), [([False, True], ["false", "true"]), ([1, 2], ["1", "2"])]
)
def test_classes_keep_their_types(tmp_path, classes, names):
    pl.DataFrame({"a": range(10), "y": classes * 5}).write_parquet(tmp_path / "t.parquet")
    words = f"train table --data {tmp_path}/t.parquet --target y --epochs 1 --folder {tmp_path}/r"
    assert main(words.split()) == 0
    predictor = load_predictor(tmp_path / "r", table.network)
    frame, notes = predictor.predict(pl.DataFrame({"a": [1, 9]}))
    assert frame.columns == ["prediction", *(f"probability_{name}" for name in names)]
    assert set(frame["prediction"]) <= set(classes)
    assert frame["prediction"].dtype == pl.Series(classes).dtype
    assert notes == []


@pytest.mark.parametrize("kind", ["tsv", "parquet", "arrow", "jsonl", "ndjson"])
def test_every_format_holds_the_same(predict, kind):
    for name in ("p.csv", f"p.{kind}"):
        assert predict(f"iris --data {IRIS} --out {name}")[0] == 0
    read = {
        "tsv": lambda path: pl.read_csv(path, separator="\t"),
        "parquet": pl.read_parquet,
        "arrow": lambda path: pl.read_ipc(path),
        "jsonl": pl.read_ndjson,
        "ndjson": pl.read_ndjson,
    }[kind]
    got = read(f"p.{kind}").with_columns(pl.selectors.float().cast(pl.Float32))
    expected = pl.read_csv("p.csv").with_columns(pl.selectors.float().cast(pl.Float32))
    assert_frame_equal(got, expected)


def test_rows_are_predicted_in_blocks_as_at_once(predict, monkeypatch):
    predict("rooms --data rooms.csv --out whole.csv")
    monkeypatch.setattr(delimited, "BLOCK", 50)
    monkeypatch.setattr(delimited, "BLOCK_PER_COLUMN", 1)
    monkeypatch.setattr("steepest.predict.ROWS_AT_ONCE", 2)
    assert predict("rooms --data rooms.csv --out blocks.csv")[0] == 0
    whole, blocks = pl.read_csv("whole.csv"), pl.read_csv("blocks.csv")
    assert_frame_equal(whole, blocks, rel_tol=1e-6)


def test_new_rows_come_from_any_kind_of_file_and_with_or_without_the_target(predict):
    rooms = pl.read_csv("rooms.csv", schema_overrides={"zip": pl.String})
    rooms.drop("price").write_parquet("rooms.parquet")
    rooms.select(reversed(rooms.columns)).write_ndjson("rooms.jsonl")
    rooms.with_columns(price=pl.lit("?")).write_csv("asked.csv")
    predict("rooms --data rooms.csv --out 1.csv")
    for number, name in enumerate(("rooms.parquet", "rooms.jsonl", "asked.csv"), 2):
        assert predict(f"rooms --data {name} --out {number}.csv")[0] == 0
        assert Path(f"{number}.csv").read_text() == Path("1.csv").read_text()


def test_categories_of_digits_keep_their_zeros(runs):
    transform = Transform.load(runs / "rooms" / "transform.json")
    assert [name for name in transform.features if name.startswith("zip")] == [
        "zip=01234", "zip=1234", "zip=99999",
    ]  # fmt: skip


def test_the_best_weights_are_taken_unless_told_otherwise(predict, runs):
    weights = load_weights(runs / "diabetes" / "model.safetensors")
    ones = {name: torch.ones_like(tensor) for name, tensor in weights.items()}
    save_weights(runs / "diabetes" / "best.safetensors", ones)
    for words in ("--out best.csv", "--out best2.csv --weights best", "--out last.csv "
                  "--weights last"):  # fmt: skip
        predict(f"diabetes --data {DIABETES} {words}")
    assert Path("best.csv").read_text() == Path("best2.csv").read_text()
    assert Path("best.csv").read_text() != Path("last.csv").read_text()
    (runs / "diabetes" / "best.safetensors").unlink()  # a run without validation has none
    predict(f"diabetes --data {DIABETES} --out none.csv")
    assert Path("none.csv").read_text() == Path("last.csv").read_text()


def test_what_is_unlike_the_training_is_told(predict):
    Path("new.csv").write_text("rooms,city,garden,id\n1,Oslo,true,7\nmany,Paris,,8\n,,false,9\n")
    code, said = predict("rooms --data new.csv --out p.csv")
    assert code == 0
    assert "note: column 'zip' is missing: its fill value stands in every row" in said
    assert (
        "note: 'rooms': 1 row holds no value that the model knows (such as 'many'), taken" in said
    )
    assert "note: 'city': 2 rows hold categories that the training part lacks (such as 'Pa" in said
    assert "note: not used: 'id'" in said
    assert pl.read_csv("p.csv").height == 3


def test_a_line_of_separators_has_a_prediction_and_an_empty_line_none(predict):
    Path("new.csv").write_text("rooms,city,garden,zip\n1,Oslo,true,1234\n\n,,,\n2,Rome,false,1\n\n")
    assert predict("rooms --data new.csv --out p.csv")[0] == 0
    numbers = pl.read_csv("p.csv")["prediction"].to_list()
    assert len(numbers) == 3
    assert len(set(numbers)) == 3


def test_predictions_that_are_no_numbers_are_told(predict, runs):
    weights = load_weights(runs / "diabetes" / "model.safetensors")
    broken = {name: tensor * torch.nan for name, tensor in weights.items()}
    save_weights(runs / "diabetes" / "best.safetensors", broken)
    code, said = predict(f"diabetes --data {DIABETES} --out p.csv")
    assert code == 0
    assert "note: 442 predictions are no finite numbers" in said


REFUSED = {
    "rooms --data rooms.csv --out p.txt": "Predictions are written as .csv, .tsv, .parquet, ",
    "rooms --data rooms.csv --out p": "Predictions are written as .csv",
    "rooms --data rooms.csv --out no/p.csv": "There is no folder no to write p.csv to",
    "rooms --data rooms.csv --out there.csv": "there.csv is there already: give --force",
    "rooms --data rooms.csv --out ./rooms.csv --force": "would take the place of their own data",
    "rooms --data absent.csv --out p.csv": "there is no file absent.csv",
    "rooms --data other.csv --out p.csv": "other.csv: a table to predict has the columns that the",
    "rooms --data late.csv --out p.csv": "late.csv: column 'rooms' is infinite in row 3",
    "rooms --data words.csv --out p.csv": "words.csv: column 'rooms' holds no value that the model",
    "rooms --data ragged.csv --out p.csv": "ragged.csv, line 3 has 1 field",
    "rooms --data none.csv --out p.csv": "none.csv has no rows: there is nothing to predict",
    "nowhere --data rooms.csv --out p.csv": "there is no folder nowhere; `steepest runs`",
    "untrained --data rooms.csv --out p.csv": "untrained has no transform.json; give the folder",
    "coded --data rooms.csv --out p.csv": "is of the recipe 'x.py', which is code: give --recipe",
    "line --data rooms.csv --out p.csv": "A recipe that predicts has a function `network(transfo",
    "rooms --data rooms.csv": "steepest: predict needs --out; see steepest predict --help",
    "": "steepest: predict needs RUN, --data and --out; see steepest predict --help",
    "--data rooms.csv --out p.csv": "steepest: predict needs RUN; see steepest predict --help",
    "rooms --data rooms.csv --out p.csv --weights worst": "weights",
}


@pytest.mark.parametrize("words", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_predicted_is_refused_and_nothing_written(predict, runs, words):
    Path("there.csv").write_text("mine")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("late.csv").write_text("rooms,city\n1,Rome\n2,Rome\ninf,Rome\n")
    Path("ragged.csv").write_text("rooms,city\n1,Rome\n2\n")
    Path("words.csv").write_text("rooms,city\none,Rome\ntwo,Rome\n")
    Path("none.csv").write_text("rooms,city\n")
    for name, recipe in (("untrained", "table"), ("coded", "x.py"), ("line", "line")):
        (runs / name).mkdir()
        text = json.dumps({"recipe": recipe, "options": {}})
        (runs / name / "options.json").write_text(text)
    rooms = Path("rooms.csv").read_bytes()
    code, said = predict(words)
    assert code == 2
    assert REFUSED[words] in said
    assert said.count("\n") == 1
    assert not Path("p.csv").exists()
    assert not list(runs.glob("*.tmp"))
    assert Path("there.csv").read_text() == "mine"
    assert Path("rooms.csv").read_bytes() == rooms


def test_force_writes_over_a_file_once_the_predictions_are_whole(predict):
    Path("p.csv").write_text("mine")
    Path("late.csv").write_text("rooms,city\n1,Rome\ninf,Rome\n")
    assert predict("rooms --data late.csv --out p.csv --force")[0] == 2
    assert Path("p.csv").read_text() == "mine"
    assert predict("rooms --data rooms.csv --out p.csv --force")[0] == 0
    assert Path("p.csv").read_text().startswith("prediction\n")


def test_a_recipe_of_ones_own_predicts_when_it_is_named(predict, runs):
    from textwrap import dedent

    network = "from steepest.recipes.table import network as net\n    def network(transform, "
    network += "hidden):\n        return net(transform, () + hidden)"
    Path("mine.py").write_text(dedent(MINE.format(network=network)))
    assert main(["train", "mine.py", "--data", "rooms.csv", "--folder", "mine"]) == 0
    Path("executed").unlink()
    code, said = predict("mine --data rooms.csv --out p.csv")
    assert code == 2
    assert "is of the recipe 'mine.py', which is code: give --recipe mine.py" in said
    assert not Path("executed").exists()
    assert predict("mine --data rooms.csv --out p.csv --recipe mine.py")[0] == 0
    assert pl.read_csv("p.csv").height == 29
    Path("bare.py").write_text(dedent(MINE.format(network="")))
    code, said = predict("mine --data rooms.csv --out q.csv --recipe bare.py")
    assert code == 2
    assert "has a function `network(transform, ...) -> nn.Module` beside `run`" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no readable options.json"),
        ("[]", "has no readable options.json"),
        ("{}", "has no readable options.json"),
        ('{"recipe": 1, "options": {}}', "has no readable options.json"),
        ('{"recipe": "table", "options": []}', "has no readable options.json"),
        ("[" * 100_000, "has no readable options.json"),
        ('{"recipe": "table", "options": {}}' + " " * 2**20, "has no readable options.json"),
        ('{"recipe": "../x", "options": {}}', "is of the recipe '../x', which is code"),
        ('{"recipe": "table", "options": {"hidden": "ab"}}', "cannot be built anew"),
        ('{"recipe": "table", "options": {"hidden": [-1]}}', "hidden holds widths of at least 1"),
        ('{"recipe": "table", "options": {"hidden": [1e400]}}', "cannot be built anew"),
        ('{"recipe": "table", "options": {"hidden": {"a": 1}}}', "cannot be built anew"),
        (
            '{"recipe": "table", "options": {"hidden": [1000000000, 1000000000]}}',
            r"best.safetensors is not of the model that the run's options make: 0.bias is \(1,\)",
        ),
        (
            '{"recipe": "table", "options": {"hidden": [1000000000000000000]}}',
            "is not of the mod|c",
        ),
    ],
    ids=range(14),
)
def test_options_that_were_changed_are_refused(predict, runs, text, sentence):
    import re

    (runs / "diabetes" / "options.json").write_text(text)
    code, said = predict(f"diabetes --data {DIABETES} --out p.csv")
    assert code == 2
    assert re.search(sentence, said)
    assert said.count("\n") == 1


def test_damaged_weights_and_transforms_are_refused(runs):
    best = runs / "iris" / "best.safetensors"
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best.safetensors"):
        load_predictor(runs / "iris", table.network)
    with pytest.raises(RecipeError, match="is not of the model that the run's options make"):
        load_predictor(runs / "rooms", lambda transform: nn.Linear(3, 1))
    (runs / "iris" / "transform.json").write_text("{}")
    with pytest.raises(DataError, match=r"transform.json is damaged"):
        load_predictor(runs / "iris", table.network)


def test_a_model_with_numbers_that_no_file_holds_is_built_whole(runs):
    class Shifted(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.linear = nn.Linear(inputs, 1)
            self.register_buffer("shift", torch.full((1,), 2.0), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + self.shift

    transform = Transform.load(runs / "diabetes" / "transform.json")
    model = Shifted(len(transform.features))
    save_weights(runs / "diabetes" / "best.safetensors", model.state_dict())
    loaded = load_predictor(runs / "diabetes", lambda t: Shifted(len(t.features))).model
    x = torch.randn(3, len(transform.features))
    assert torch.equal(loaded(x), model(x))


def test_a_model_of_another_shape_is_refused(runs):
    transform = Transform.load(runs / "iris" / "transform.json")
    predictor = Predictor(nn.Linear(4, 2), transform, torch.device("cpu"))
    with pytest.raises(RecipeError, match=r"predicts 3 numbers .*: got shape \(150, 2\) for 150"):
        predictor.predict(IRIS)

"""The charts of a training: loss, metrics, learning rate, gradient norm."""

from collections.abc import Sequence

from steepest.figures import short
from steepest.report.chart import Chart, Key, Reported, Trace, line, prefers_log
from steepest.report.series import Point, Series, middles

NOISY = 120  # values of single updates above which their running mean is drawn as well
MEANS = 80
SHORT = ("mae", "mse", "rmse", "r2", "f1", "auc", "auroc", "bce")

TITLES = {"lr": "Learning rate", "gradient_norm": "Gradient norm"}


def loss_chart(runs: Sequence[Reported]) -> Chart | None:
    """Return the losses over the training, all runs in one chart."""
    train = [trace for run in runs for trace in _train(run, any(map(_is_validated, runs)))]
    validation = [
        trace
        for run in runs
        if _is_validated(run)
        for trace in _validated(run, "loss", "validation")
    ]
    if not train + validation:
        return None
    return Chart(
        title="Loss",
        data=train + validation,
        keys=_keys(runs[0], train, validation),
        notes=[note for run in runs if (note := _lost(run))],
        log=prefers_log(train + validation),
        height=380,
        wide=True,
    )


def metric_charts(runs: Sequence[Reported]) -> list[Chart]:
    """Return a chart for each metric of the validation rows."""
    names = {name: 0 for run in runs for name in run.curves.validation if name != "loss"}
    found = {
        name: [
            trace
            for run in runs
            if run.curves.validation.get(name)
            for trace in _validated(run, name, "validation")
        ]
        for name in names
    }
    return [
        Chart(title=said(name), data=data, log=prefers_log(data))
        for name, data in found.items()
        if data
    ]


def step_charts(runs: Sequence[Reported]) -> list[Chart]:
    """Return the charts of what was measured at the updates: lr, gradient norm, the user's own."""
    names = {name: 0 for run in runs for name in (*run.curves.steps, *run.curves.epochs)}
    names.pop("loss", None)
    found = {name: [t for run in runs for t in _of_steps(run, name)] for name in names}
    return [
        Chart(
            title=TITLES.get(name, said(name)),
            data=data,
            layout={"yaxis": {"rangemode": "tozero"}},
            log=False if name == "lr" and prefers_log(data) is not None else prefers_log(data),
        )
        for name, data in found.items()
        if data
    ]


def said(name: str) -> str:
    """Return a metric's name as a heading."""
    words = [word.upper() if word in SHORT else word for word in name.split("_")]
    spaced = " ".join(words)
    return spaced[:1].upper() + spaced[1:]


def _train(run: Reported, beside_validation: bool) -> list[Trace]:
    steps = run.curves.steps.get("loss", Series())
    epochs = run.curves.epochs.get("loss", Series())
    dash = "dot" if beside_validation and not run.alone else "solid"
    if len(steps.buckets) > 2 * len(epochs.buckets) and steps:
        return _noisy(run, "train", steps, dash)
    if not epochs:
        return []
    return [line(run, "train", middles(epochs.points()), run.train_colour, dash=dash)]


def _noisy(run: Reported, name: str, series: Series, dash: str = "solid") -> list[Trace]:
    """Return a curve, where it has many values as a running mean before their range."""
    points = series.points()
    if len(points) <= NOISY:
        return [line(run, name, points, run.train_colour, dash=dash)]
    mean = line(run, name, series.means(MEANS), run.train_colour, dash=dash)
    if not run.alone:
        return [mean]
    return [line(run, name, points, run.train_colour, width=1, opacity=0.35), mean]


def _of_steps(run: Reported, name: str) -> list[Trace]:
    series = run.curves.steps.get(name) or run.curves.epochs.get(name)
    if not series:
        return []
    if name == "lr":  # a schedule: its corners are no noise
        return [line(run, said(name), series.points(), run.train_colour)]
    return _noisy(run, said(name), series)


def _validated(run: Reported, name: str, what: str) -> list[Trace]:
    points = run.curves.validation[name].points()
    traces = [line(run, what, points, run.validation_colour)]
    best = _best(run, name, points)
    if best is not None:
        ring = line(run, "best", [best], run.validation_colour)
        ring |= {"mode": "markers", "hoverinfo": "skip"}
        ring["marker"] = {"size": 12, "symbol": "circle-open", "line": {"width": 2}}
        traces.append(ring | {"hovertemplate": None})
    return traces


def _best(run: Reported, name: str, points: Sequence[Point]) -> Point | None:
    """Return the point with the best weights, on the curve of the metric that chose them."""
    milestones = run.curves.milestones
    if milestones.name_in(milestones.best) != f"validation_{name}":
        return None
    step = milestones.best.get("step")
    return next((point for point in points if point.place.step == step), None)


def _is_validated(run: Reported) -> bool:
    return bool(run.curves.validation.get("loss"))


def _keys(run: Reported, train: list[Trace], validation: list[Trace]) -> list[Key]:
    if run.alone:
        keys = [Key("train", "var(--train)")] if train else []
        keys += [Key("validation", "var(--validation)")] if validation else []
        if any(trace["mode"] == "markers" for trace in validation):
            keys.append(Key("best", "var(--validation)", "ring"))
        return keys
    if not (train and validation):
        return []
    return [Key("train", shape="dot"), Key("validation"), Key("best", shape="ring")]


def _lost(run: Reported) -> str:
    lost = run.curves.milestones.lost
    who = "The loss" if run.alone else f"The loss of {run.label}"
    return "" if lost is None else f"{who} was not a finite number at update {short(lost)}."

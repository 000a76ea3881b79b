"""What an export tells beside its scores: the fine-tune's curve and the results per class, small and exact."""

import json
import shutil

import pytest
import torch

import autoprune
from autoprune.data import ImageData, Split
from autoprune.evaluation import measure, measure_by_class
from autoprune.exporting import _compact_json
from autoprune.report.page.classes import SHOWN, classes_chart, classes_of
from autoprune.report.page.facts import Facts
from autoprune.report.page.training import training_chart
from autoprune.runs.telling import MOST_POINTS, curve, held_out, per_class
from autoprune.tasks import Classification


def test_a_short_training_is_told_step_by_step():
    assert curve([3.0, 2.0, 1.0]) == {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}


def test_a_long_training_is_told_in_means_that_leave_nothing_out():
    losses = [float(i) for i in range(100_000)]
    told = curve(losses)
    assert len(told["step"]) == len(told["loss"]) == MOST_POINTS
    assert told["step"][-1] == 100_000
    assert told["loss"][0] == 249.5  # of 0 to 499
    assert sum(told["loss"]) / MOST_POINTS == pytest.approx(sum(losses) / len(losses))
    odd = curve(losses[:1001])
    assert sum(m * n for m, n in zip(odd["loss"], _sizes(odd["step"]), strict=True)) == pytest.approx(500 * 1001)


def _sizes(ends):
    return [b - a for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class Constant(torch.nn.Module):
    """Says class 1 to everything."""

    def forward(self, x):
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3)


@pytest.fixture(scope="module")
def data():
    """Three classes; of 6 test images two are of class 1, none of class 2."""
    split = Split(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1, 2]))
    test = Split(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 0, 1]))
    return ImageData(split, split, test, (0.0,), (1.0,), ("cat", "dog", "<b>"))


def test_images_are_counted_by_class(data):
    scores, right = measure_by_class(Constant(), data, "test", device="cpu")
    assert right == [0, 2, 0]
    assert scores == measure(Constant(), data, "test", device="cpu")
    assert scores["top1"] == pytest.approx(sum(right) / 6)
    assert per_class(Classification(data), "test", [3, 1, 0], right) == {
        "split": "test", "classes": ["cat", "dog", "<b>"], "images": [4, 2, 0], "dense": [3, 1, 0], "pruned": [0, 2, 0],
    }  # fmt: skip
    assert held_out(Classification(data)) == "test"
    assert held_out(Classification(data.without_test())) == "val"


def test_lists_stand_on_one_line_whatever_their_texts_hold():
    data = {
        "metrics": {"per_class": {"classes": ["a[ 1 ]", 'b"]', "c\n[", "é"], "images": [1, 2]}, "x": {}},
        "kept": [[1]],
    }
    text = _compact_json(data)
    assert json.loads(text) == data
    assert len(text.splitlines()) == 12


def facts(told):
    return Facts(None, None, None, (), {}, export={"metrics": told})


def test_the_worst_twenty_of_many_classes_are_drawn_and_all_are_in_the_table():
    names = [f"n{i:04d}" for i in range(1000)]
    told = {"split": "val", "classes": names, "images": [50] * 1000, "dense": [40] * 1000}
    told["pruned"] = [40 - i % 25 for i in range(1000)]
    chart = classes_chart(facts({"per_class": told}))
    assert len(chart.rows) == 1000
    assert chart.rows[0] == ("n0024", "50", "80.0 %", "32.0 %", "−48.0")
    assert "On 50000 validation images, 50 of each class." in chart.caption
    assert f"Drawn are the {SHOWN} that lost most" in chart.caption
    assert chart.height == 110 + 20 * SHOWN


@pytest.mark.parametrize("pruned", [10, 9, 2])
def test_no_accuracy_above_100_is_on_the_axis(pruned):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    told = {"split": "test", "classes": ["a"], "images": [10], "dense": [10], "pruned": [pruned]}
    classes_chart(facts({"per_class": told})).draw(axes, False)
    low, high = axes.get_xlim()
    assert high > 100 >= max(axes.get_xticks())
    assert low <= min(axes.get_xticks())


def test_a_class_without_images_is_left_out_and_old_exports_have_no_chart():
    told = {"split": "test", "classes": ["a", "b"], "images": [10, 0], "dense": [9, 0], "pruned": [10, 0]}
    (only,) = classes_of(facts({"per_class": told}))
    assert (only.name, only.dense, only.pruned, only.change) == ("a", 90.0, 100.0, 10.0)
    assert "1 gained" in classes_chart(facts({"per_class": told})).caption
    assert classes_chart(facts({"per_class": {**told, "images": [10]}})) is None
    assert classes_chart(facts({})) is None
    assert training_chart(facts({})) is None
    assert training_chart(Facts(None, None, None, (), {})) is None


@pytest.mark.parametrize(
    ("delivered", "said"),
    [
        ("before_finetune", "from before it"),
        ("finalist", "as it was as a finalist"),
        ("after_finetune", "from after it"),
    ],
)
def test_the_caption_of_the_fine_tune_names_the_network_that_is_delivered(delivered, said):
    told = {f"{when}_val": {"loss": 0.1, "delivered": when == delivered}
            for when in ("before_finetune", "finalist", "after_finetune")}  # fmt: skip
    chart = training_chart(facts({"training": {"step": [1, 2], "loss": [0.3, 0.2]}, **told}))
    assert f"Delivered is the network {said}" in chart.caption
    assert chart.caption.count("Delivered") == 1


def test_a_run_tells_both_and_a_network_trained_elsewhere_only_what_is_true_of_it(digits_weights, tmp_path):
    quick = {
        "criterion": "l1",
        "device": "cpu",
        "trials": 1,
        "finalists": 0,
        "warm_starts": "none",
        "fidelity": "proxy",
    }
    quick |= {
        "fidelity": "proxy",
        "bn_samples": 64,
        "val_samples": 64,
        "reconstruct": False,
        "batch_size": 64,
        "lr": 0.001,
        "epochs": 0.2,
    }
    run = tmp_path / "run"
    model = "search_spaces.models:digits_cnn"
    result = autoprune.search(model, "digits", weights=str(digits_weights), name=str(run), progress=False, **quick)
    told = json.loads((run / "best" / "architecture.json").read_text())["metrics"]
    assert told == result.metrics
    assert told["training"]["step"] == [1, 2, 3, 4]  # a fifth of 1,294 // 64 = 20 steps
    classes = told["per_class"]
    assert classes["split"] == "test"
    assert sum(classes["images"]) == 360
    for which in ("dense", "pruned"):
        assert sum(classes[which]) / 360 == pytest.approx(told[f"{which}_test"]["top1"])
    shutil.rmtree(run / "finetune", ignore_errors=True)
    with torch.no_grad():
        for weight in result.model.parameters():
            weight.mul_(0.5)
    autoprune.attach(run, result.model)
    after = json.loads((run / "best" / "architecture.json").read_text())["metrics"]
    assert "training" not in after
    assert after["per_class"]["dense"] == classes["dense"]
    assert sum(after["per_class"]["pruned"]) / 360 == pytest.approx(after["pruned_test"]["top1"])

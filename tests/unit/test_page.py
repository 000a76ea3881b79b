"""The report as a page: what is on it, that nothing on it is code, and that it stays small."""

import io
import itertools
import json
import math
import re
import sys
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autoprune.config import RunConfig
from autoprune.labels import Labels
from autoprune.ledger.locks import FileLock
from autoprune.ledger.records import Entry, Record
from autoprune.problem import Trial, TrialState
from autoprune.report import RunProgress, Sheet, print_report
from autoprune.report.compare import names, print_compare, read_runs, run_table
from autoprune.report.gloss import scored
from autoprune.report.page import pages_wanted, write_charts, write_page
from autoprune.report.page.bars import BARS, Bar, bars, shortened
from autoprune.report.page.document import breakable
from autoprune.report.page.dots import frame, log_ticks, thinned
from autoprune.report.page.drawing import NARROW, PALETTE
from autoprune.report.page.facts import Facts
from autoprune.report.page.front import front_charts, unbeaten
from autoprune.report.page.history import history_chart, improvements
from autoprune.report.page.inline import svg
from autoprune.report.page.overlay import write_overlay
from autoprune.report.page.ranking import chance, pairs, verdict
from autoprune.report.page.words import asked, budgets, failures
from autoprune.runs.directory import RunDirectory
from objectives import front
from search_spaces import Axis, ChannelGroup, Layer, Member, SearchSpace, TensorShape

pytest.importorskip("matplotlib")
EVIL = '<img src=x onerror=alert(1)><script>alert(2)</script>"&$x$'
CONFIG = RunConfig(model="m:f", data="digits", trials=8, finalists=3, fidelity="proxy")


def chain(*sizes, name="conv"):
    """A chain of 3x3 convolutions on 8 x 8 pixels, each but the last prunable."""
    axes = [Axis(3, 3), *(Axis(s, 0, ((g, 1),)) for g, s in enumerate(sizes)), Axis(10, 10)]
    layers = [Layer(f"{name}{i}", "conv", 9, 64, a, b) for i, (a, b) in enumerate(itertools.pairwise(axes))]
    tensors = [TensorShape(f"{x.name}.weight", (x.makes, x.reads, Axis(9, 9))) for x in layers]
    return SearchSpace(
        tuple(ChannelGroup(f"{name}{i}", s, ()) for i, s in enumerate(sizes)), (), tuple(layers), tuple(tensors)
    )


@dataclass(frozen=True)
class Run(RunDirectory):
    """A run whose ledger is a list."""

    trials: tuple = ()
    over: SearchSpace = field(default_factory=lambda: chain(8, 16))

    def space(self):
        return self.over

    def record(self):
        return Record({}, {"versions": {"torch": "9.9"}}, tuple(Entry(t) for t in self.trials), {})


def complete(number, widths, loss, fidelity="proxy", **more):
    metrics = {"loss": loss, "top1": 1 - loss / 10}
    return Trial(number, widths, TrialState.COMPLETE, metrics, fidelity, worker="here", seconds=2.0, **more)


TRIALS = (
    *(complete(i, (4, 1 + i), 2.0 - 0.1 * i) for i in range(5)),
    replace(complete(5, (3, 3), 9.0), state=TrialState.PRUNED),
    Trial(6, (2, 2), TrialState.FAIL, error="loss is not finite", seconds=1.0),
    Trial(7, (2, 3), TrialState.FAIL, error="loss is not finite"),
    *(complete(8 + i, (4, 5 - i), 1.0 + 0.1 * i, "short") for i in range(3)),
)


@pytest.fixture
def make(tmp_path):
    """A run's directory, with or without an export."""

    def make(name="r", trials=TRIALS, config=CONFIG, space=None, finished=False):
        run = Run(tmp_path / name, config, tuple(trials), space or chain(8, 16))
        run.path.mkdir(parents=True)
        (run.path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        if finished:
            run.best.mkdir()
            (run.best / "weights.safetensors").write_bytes(bytes(1234))
            metrics = {
                f"{w}_{s}": {"loss": 0.5, "top1": t}
                for w, t in (("dense", 0.95), ("pruned", 0.93))
                for s in ("val", "test")
            }
            costs = {"macs": {"dense": 1000.0, "pruned": 400.0}}
            what = {
                "format": "autoprune architecture 1", "model": {"factory": "m:f"}, "widths": [4, 5],
                "kept": [[0, 1, 2, 3], [0, 1, 2, 3, 4]],
                "space": {}, "costs": costs, "metrics": metrics,
                "provenance": {"trial": 8, "versions": {"torch": "1.2.3"}},
            }  # fmt: skip
            (run.best / "architecture.json").write_text(json.dumps(what), encoding="utf-8")
        return run

    return make


class Page(HTMLParser):
    """The tags, attributes and words of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.ids, self.words = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_data(self, data):
        self.words += data

    def charts(self):
        return [v for t, k, v in self.attributes if (t, k) == ("figure", "id")]


def test_a_finished_run_says_what_was_asked_what_came_out_and_how_to_repeat_it(make):
    run = make(finished=True)
    page = Page(write_page(run))
    words = " ".join(page.words.split())
    wanted = ["finished", "m:f", "macs<=50%", "93.00 %", "dense 95.00 %", "−2.00 points", "1.234 kB", "torch 1.2.3"]
    wanted += [f"autoprune search --config {run.path / 'config.toml'} --name r-again", f"load('{run.best}')"]
    wanted += ["loss is not finite", "n = 3 finalists", 'criterion = "group_fisher"']
    assert [w for w in wanted if w not in words] == []
    assert page.charts() == ["history", "front", "widths", "cost-macs", "cost-params", "cost-activations", "ranking"]
    assert page.tags.count("svg") == 2 * len(page.charts()) == page.tags.count("details") * 2 - 2  # and config.toml
    assert words.index("93.00 %") < words.index("macs<=50%") < words.index("trial by trial")


def test_nothing_is_loaded_and_nothing_is_code(make):
    page = Page(write_page(make(finished=True)))
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    links = [v for _, k, v in page.attributes if k in ("src", "href", "xlink:href", "srcset", "action")]
    assert {v for v in links if not v.startswith("#")} <= {"data:,", "trials.csv"}
    assert {v[1:] for v in links if v.startswith("#")} <= set(page.ids)
    assert not re.search(r"url\((?!#)|@import", page.words + "".join(v for _, _, v in page.attributes))
    assert ("meta", "content") in {(t, k) for t, k, v in page.attributes if v.startswith("default-src 'none'")}


def test_no_name_and_no_error_becomes_a_tag(make):
    trials = [complete(0, (4, 4), 1.0), complete(1, (4, 4), 1.0, "short"), complete(2, (3, 4), 1.0)]
    trials += [complete(3, (3, 4), 1.1, "short"), Trial(4, (1, 1), TrialState.FAIL, error=EVIL, worker=EVIL)]
    config = replace(CONFIG, metric=f"m:{EVIL}", model=EVIL, data=EVIL, budget=("macs<=50%",))
    run = make(EVIL.replace("/", ""), trials, config, chain(8, 16, name=EVIL))
    for path in (write_page(run), write_overlay(read_runs([run, make("other")]), run.path / "compare.html")):
        page = Page(path)
        assert not {"script", "img"} & set(page.tags)
        assert not [k for _, k, _ in page.attributes if k.startswith("on")]
        assert "onerror=alert(1)" in page.words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("search_spaces.models:digits_cnn", "search_|spaces.|models:|digits_|cnn"),
        ("in results/a-run/best, weights.safetensors", "in results/|a-|run/|best, weights.|safetensors"),
        ("latency@onnxruntime,batch=1,threads=1", "latency@onnxruntime,|batch=1,|threads=1"),
        ("0.424 ms of 0.5 ms, --trials 32", "0.424 ms of 0.5 ms, --trials 32"),
        ("<b>.a_name_of_one</b>", "&lt;b&gt;.|a_|name_|of_|one&lt;/|b&gt;"),
        (8, "8"),
    ],
)
def test_long_words_are_broken_between_their_parts_only(text, shown):
    assert str(breakable(text)).replace("<wbr>", "|") == shown


def test_a_budget_says_of_what_its_share_is(make):
    facts = Facts.of(make(config=replace(CONFIG, budget=("macs<=60%",))))
    used = facts.price("macs", facts.widths)
    (row,) = budgets(facts)
    assert row.used.endswith(f" allowed: {100 * used / facts.bound(facts.budgets[0]):.1f} % of the budget is used")


def test_ten_thousand_trials_make_a_small_page_that_keeps_every_improvement(make):
    trials = [complete(i, (1 + i % 8, 1 + i % 16), 2 + math.cos(i) - i / 10_000) for i in range(10_000)]
    trials += [Trial(10_000 + i, (1, 1), TrialState.FAIL, error=f"{i} " + 2000 * "x") for i in range(3000)]
    run = make(trials=trials)
    path = write_page(run)
    assert path.stat().st_size < 2_000_000
    text = path.read_text(encoding="utf-8")
    assert all(f"trial {t.number}, proxy" in text for t in improvements(trials))
    assert "of the dots left out" in text


@pytest.mark.slow
def test_a_network_of_many_layers_is_drawn_by_its_largest(make):
    page = Page(write_page(make(trials=[complete(0, (4,) * 100, 1.0)], space=chain(*range(100, 200)))))
    heights = [float(v.split()[3]) for t, k, v in page.attributes if (t, k) == ("svg", "viewbox")]
    assert max(heights) <= 92 + 18 * BARS
    pairs = [3 * 100, *(a * (a + 1) for a in range(100, 199)), 199 * 10]  # inputs times outputs, layer by layer
    share = 100 * sum(sorted(pairs)[-BARS:]) / sum(pairs)
    said = f"Drawn are the {BARS} largest, {share:.1f} % of the whole; the numbers of the other 53 are in the table."
    assert said.replace(" %", "\u00a0%") in page.words
    assert f"Drawn are the first {BARS};" in page.words  # the widths, which are no parts of a whole


@pytest.mark.parametrize("trials", [[], [Trial(0, (4, 4))], [Trial(0, (4, 4), TrialState.FAIL, error="boom")]])
def test_a_run_without_a_result_has_a_page(make, trials):
    page = Page(write_page(make(trials=trials)))
    assert page.charts() == []
    failed = any(t.error for t in trials)
    assert ("No candidate has been evaluated yet" in page.words) != failed
    assert ("No candidate could be evaluated: 1 evaluation failed" in page.words) == failed
    assert ("boom" in page.words) == failed


def test_a_killed_run_counts_what_it_has_evaluated(make):
    """Two of three finalists; the third was in the hands of whoever was killed, and is told apart."""
    trials = [*TRIALS[:-1], replace(TRIALS[-1], state=TrialState.RUNNING, metrics={}, seconds=0.0)]
    words = " ".join(Page(write_page(make(trials=trials))).words.split())
    said = "8 candidates, 2 finalists"
    assert f"Stopped before its end: {said} evaluated in 17 s, 2 failed, 1 interrupted." in words
    assert f"Lower is better: {said}, " in words
    assert "3 finalists" not in words.replace("the best 3", "")


def test_a_stopped_run_says_how_to_go_on_and_a_running_one_who_runs_it(make):
    run = make()
    words = Page(write_page(run)).words
    assert f"autoprune resume {run.path}" in words
    assert "93.00 %" not in words
    lock = FileLock(run.path / ".lock", "test")
    try:
        words = Page(write_page(run)).words
    finally:
        lock.release()
    assert "Still running (process" in words
    assert "resume" not in words


def test_charts_follow_the_page(make):
    chart = history_chart(Facts.of(make()))
    wide, narrow = svg(chart, False), svg(chart, True)
    for text in (wide, narrow):
        assert not any(light in text for light, _ in PALETTE.values())
        assert {f"var(--{role})" for role in ("pruned", "muted", "final", "fail", "grid")} <= set(
            re.findall(r"var\(--\w+\)", text)
        )
        assert "trial 6 failed: loss is not finite" in text
        assert "<style" not in text
    assert f'viewBox="0 0 {NARROW} ' in narrow
    assert set(re.findall(r' id="([^"]+)"', wide)).isdisjoint(re.findall(r' id="([^"]+)"', narrow))


def test_the_same_charts_as_png(make):
    paths = write_charts(make())
    drawn = ("history", "front", "widths", "cost-macs", "cost-params", "cost-activations", "ranking")
    assert [p.name for p in paths] == [f"{name}.png" for name in drawn]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_without_matplotlib_the_report_says_how_to_get_the_page(make, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not pages_wanted(None)
    assert capsys.readouterr().out == "no page: the report page needs matplotlib; pip install 'autoprune[report]'\n"
    assert not pages_wanted(False)
    for ask in (lambda: pages_wanted(True), lambda: write_page(make()), lambda: write_charts(make("s"))):
        with pytest.raises(ValueError, match=r"needs matplotlib; pip install 'autoprune\[report\]'"):
            ask()


def test_pages_are_written_unless_they_are_not_wanted():
    assert pages_wanted(None)
    assert pages_wanted(True)
    assert not pages_wanted(False)


# -- the parts ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(2, 50), st.sets(st.integers(0, 399)))
def test_thinned_keeps_the_ends_and_what_it_must(count, most, keep):
    trials = [Trial(i, ()) for i in range(count)]
    kept = [t for t in trials if t.number in keep]
    found = thinned(trials, kept, most)
    assert len(found) <= most + len(kept)
    assert found == sorted(found, key=lambda t: t.number)
    assert {t.number for t in kept} | {t.number for t in trials[:1] + trials[-1:]} <= {t.number for t in found}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_unbeaten_is_the_front(points):
    found = [points[i] for i in unbeaten(*zip(*points, strict=True))]
    assert found == sorted(set(map(tuple, (points[i] for i in front(points)))))


@given(st.lists(st.floats(-1e3, 1e6), max_size=50))
def test_the_frame_shows_the_best_and_nearly_all(losses):
    low, high = frame([*losses, math.inf, math.nan])
    assert low < high
    assert not losses or low < min(losses) <= high
    assert sum(x <= high for x in losses) >= 0.9 * len(losses) - 1


def test_one_absurd_loss_does_not_flatten_the_rest():
    assert frame([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 1e6])[1] < 5


# critical values of Spearman's rank correlation, two-sided 5 %, as tabulated (Zar 1972); none below five pairs
@pytest.mark.parametrize(("count", "value"), [(5, 1.0), (6, 0.886), (7, 0.786), (10, 0.648), (20, 0.447)])
def test_how_far_chance_goes(count, value):
    assert chance(count) == pytest.approx(value, abs=0.01)
    assert math.isnan(chance(4))


def test_the_verdict_says_how_many_and_what_chance_would_do():
    assert verdict([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5]).startswith(
        "Spearman 0.94, n = 6 finalists. Chance alone reaches ±0.89 one time in twenty."
    )
    assert "So few that any order could be chance" in verdict([1, 2, 3], [3, 2, 1])
    assert verdict([1, 1], [1, 2]).startswith("No rank correlation")
    assert verdict([1, 1, 1], [1, 2, 3]).startswith("No rank correlation: the 3 finalists are all alike")
    assert verdict([1, 2], [1, 2]) == "No rank correlation: not known from 2 finalists."


def test_pairs_are_of_the_same_widths_at_both_fidelities():
    trials = [
        complete(0, (1,), 3.0),
        complete(1, (2,), 2.0),
        complete(2, (1,), 1.0, "short:25"),
        complete(3, (1,), 0.5, "short"),
    ]
    assert [(a.number, b.number) for a, b in pairs(trials, "proxy")] == [(0, 3)]


def test_failures_are_counted_by_reason_and_cut():
    found = failures([Trial(i, (), TrialState.FAIL, error="a" if i % 3 else 5000 * "b") for i in range(30)])
    assert [(f.times, f.reason[:1]) for f in found] == [(20, "a"), (10, "b")]
    assert len(found[1].reason) == 501
    assert found[1].trials == "0, 3, 6, 9, 12, 15, 18, 21 and 2 more"


@given(st.text(max_size=60), st.integers(5, 40))
def test_a_shortened_name_keeps_both_ends(name, most):
    short = shortened(name, most)
    assert len(short) <= max(most, 0)
    assert short == name or (name.startswith(short.split("…")[0]) and len(name) > most)


def test_every_row_that_there_is_room_for_is_drawn():
    rows = [Bar(f"norm{i}", 1.0, 1.0, "1 to 1", "100 %") for i in range(BARS - 1)]
    rows.append(Bar("conv", 1000.0, 500.0, "1 k to 500", "50 %"))
    chart = bars("x", "X", "Caption.", rows, "MACs", ("layer", "MACs", "kept"))
    assert chart.caption == "Caption."
    assert svg(chart, True).count("norm46: 1 to 1") == 2  # before and after
    rows.append(Bar("more", 2.0, 1.0, "2 to 1", "50 %"))
    chart = bars("x", "X", "Caption.", rows, "MACs", ("layer", "MACs", "kept"))
    said = "Drawn are the 48 largest, 99.9 % of the whole; the numbers of the other 1 are in the table."
    assert chart.caption == f"Caption. {said}"
    assert [row[0] for row in chart.rows][-3:] == ["norm46", "conv", "more"]


@given(st.floats(1e-9, 1e6), st.floats(20, 1e12))
def test_a_logarithmic_axis_has_labels_to_read_it_by(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 3 <= len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert low <= ticks[0] < ticks[-1] <= low * ratio


def test_one_decade_of_losses_has_three_labels():
    """0.011 to 0.3 holds one power of ten."""
    assert log_ticks(0.011, 0.3) == [0.03, 0.1, 0.3]


def test_candidates_of_one_cost_are_compared_by_their_widths(make):
    """Of widths (4, 1) to (4, 5), the cheaper the better, the best fifth, but two at least, are (4, 1) and (4, 2)."""
    trials = [complete(i, (4, 1 + i), 2.0 + 0.1 * i) for i in range(5)]
    chart = front_charts(Facts.of(make(trials=trials)))[0]
    assert (chart.name, chart.head[2:]) == ("choices", ("all candidates", "best 2", "best so far"))
    assert list(chart.rows) == [("conv0", "8", "4", "4", "4"), ("conv1", "16", "1 to 5", "1 to 2", "1")]
    text = svg(chart, False)
    assert "conv1, all candidates: 1 to 5 of 16" in text
    assert "conv1, best so far: 1 of 16" in text


def test_candidates_of_several_costs_are_shown_where_they_are(make):
    """Widths (2, 2) to (6, 6) of (8, 16), each better than the one before: 9 to 40 % of the MACs, dense at 100."""
    trials = [complete(i, (2 + 2 * i, 2 + 2 * i), 2.0 - 0.5 * i) for i in range(3)]
    chart = front_charts(Facts.of(make(trials=trials, finished=True)))[0]
    assert chart.name == "front"
    ticks = [float(t) for t in re.findall(r">([\d.]+)</text>", svg(chart, False))]
    assert max(ticks) < 60  # the budget of 50 % is inside, the dense network is a line
    assert "dense, at 100 %" in svg(chart, False)


def test_the_words_of_the_house_are_explained(make):
    config = replace(CONFIG, fidelity="reconstructed", rungs=2, short_steps=40, finalists=1)
    rows = dict(asked(Facts.of(make(config=config))))
    assert rows["Candidates"] == (
        "8, each scored after its layers were fitted to the dense network's outputs (least squares), without training "
        "('reconstructed')"
    )
    assert rows["Then"] == "the best 2, scored again after 13 training steps ('short:13')"
    assert rows["Finalists"] == "the best, scored again after 40 training steps ('short')"
    named = replace(config, data="", task="mine:Task")
    for number, (of_task, said) in enumerate(((named, "mine:Task"), (replace(named, task=""), "an object in Python"))):
        assert dict(asked(Facts.of(make(str(number), config=of_task))))["Data"] == said
    without = chain(8, 16)  # batch-norm is spoken of where there is one
    norm = Member("norm.running_mean", 0, "norm", np.arange(8)[:, None])
    having = replace(without, groups=(replace(without.groups[0], members=(norm,)), *without.groups[1:]))
    for space, anew in ((without, "as cut"), (having, "after its batch-norm statistics were taken anew")):
        words = [scored(word, config, space) for word in ("raw", "proxy:500", "short:1")]
        assert [w.partition(",")[0] for w in words] == ["as cut", anew, "after 1 training step"]
        assert space.has_batch_norm == (space is having)
        out = io.StringIO()
        with RunProgress(Console(file=out, width=200)) as progress:
            progress.begin_search(replace(CONFIG, method="slimming"), has_batch_norm=space.has_batch_norm)
            progress.on_told(complete(0, (4, 4), 1.0))
        assert ("batch-norm" in out.getvalue()) == space.has_batch_norm


# -- comparison --------------------------------------------------------------------------------------------------


def test_a_row_for_every_run(make, capsys):
    runs = read_runs(
        [make("a/x", finished=True), make("b/x", trials=[]), make("c", config=replace(CONFIG, strategy="tpe"))]
    )
    assert names(runs)[2] == "c"
    assert len(set(names(runs))) == 3
    head, rows = run_table(runs)
    table = [dict(zip(head, row, strict=True)) for row in rows]
    assert [r["state"] for r in table] == ["finished", "stopped", "stopped"]
    assert [r["top-1 test"] for r in table] == ["93.00 %", "-", "-"]
    best = "1.0000 (short: after 300 training steps)"
    assert [r["best loss of a candidate"] for r in table] == [best, "-", best]
    assert [r["loss val, delivered"] for r in table] == ["0.5000", "-", "-"]
    assert [r["time"] for r in table] == ["19 s of evaluations", "-", "19 s of evaluations"]
    assert [r["evaluated"] for r in table] == (
        ["8 candidates, 3 finalists", "no candidate yet", "8 candidates, 3 finalists"]
    )
    assert table[2]["strategy"] == "tpe"
    print_compare(runs)
    assert "93.00 %" in capsys.readouterr().out


def test_a_training_and_a_search_compare_by_what_they_deliver(make):
    """A loss after the cut and one after a short training stand in one row, each with when it was; below what came."""
    trained = make("t", [complete(0, (4, 5), 1.5)], replace(CONFIG, method="slimming"), finished=True)
    said = json.loads((trained.best / "architecture.json").read_text())
    said["provenance"] |= {"finetune_seconds": 36.0, "run_seconds": 130.0}
    (trained.best / "architecture.json").write_text(json.dumps(said))
    few = [complete(0, (4, 4), 2.0), complete(1, (3, 3), 0.03)]
    head, rows = run_table(read_runs([trained, make("s", few)]))
    training, search = (dict(zip(head, row, strict=True)) for row in rows)
    assert training["best loss of a candidate"] == "1.5000 (after the cut, before the fine-tune)"
    assert search["best loss of a candidate"] == "0.0300 (proxy: before any training)"
    assert (training["loss val, delivered"], search["loss val, delivered"]) == ("0.5000", "-")
    assert training["time"] == "2m10s in all, 2 s of evaluations, 36 s of fine-tune and final measurements"
    assert search["time"] == "4 s of evaluations"
    assert training["evaluated"] == "-"
    report = Sheet()
    print_report(trained, report)
    assert f"took: {training['time']}" in repr(report)


def test_the_two_losses_of_a_task_without_scores_are_told_apart(make):
    run = make(finished=True)
    (run.path / "task.json").write_text(json.dumps(Labels(scores=()).to_json()))
    head, rows = run_table(read_runs([run, make("b")]))
    assert len(set(head)) == len(head)
    assert dict(zip(head, rows[0], strict=True))["loss val, delivered"] == "0.5000"


def test_the_overlay_leaves_out_what_is_not_the_same_network(make, tmp_path):
    runs = read_runs([make("a", finished=True), make("b"), make("c", trials=[complete(0, (3,), 1.0)], space=chain(8))])
    page = Page(write_overlay(runs, tmp_path / "compare.html"))
    assert page.charts() == ["history", "results", "widths"]
    assert "1 left out: over another network or with other groups." in page.words


def test_an_overlay_of_runs_without_trials(make, tmp_path):
    page = Page(write_overlay(read_runs([make("a", trials=[]), make("b", trials=[])]), tmp_path / "compare.html"))
    assert page.charts() == []
    assert "None of them has evaluated a candidate yet." in page.words


def test_one_run_cannot_be_compared(make):
    run = make()
    with pytest.raises(ValueError, match="expected at least two different runs"):
        read_runs([run, run])

"""What a user is told: how far, how long, how well the proxy ranked, what was exported."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import autoprune
from autoprune.config import RunConfig, metric_label
from autoprune.labels import Score
from autoprune.ledger.measurements import Measurement, Measurements
from autoprune.printable import printable
from autoprune.problem import Trial, TrialState
from autoprune.report import (
    Outlook,
    RunProgress,
    Sheet,
    best_table,
    console,
    counted,
    counts,
    front_table,
    print_export,
    so_far,
)
from autoprune.report.pace import Samples, Tuning, passes, tuning_passes
from autoprune.report.rows import recovery_rows
from autoprune.report.sheet import plain
from autoprune.report.trials import evaluated, proxy_quality, write_csv
from objectives import Feasibility
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace

CONFIG = RunConfig(trials=4, finalists=2, fidelity="proxy", epochs=0)


def proxy(number, loss=None, seconds=1.0, **settings):
    state = TrialState.RUNNING if loss is None else TrialState.COMPLETE
    return Trial(number, (number,), state, {} if loss is None else {"loss": loss}, seconds=seconds, **settings)


def short(number, of, loss=0.1, seconds=10.0):
    return replace(proxy(number, loss, seconds), widths=of.widths, fidelity="short")


def test_finalists_are_named_until_one_has_told_what_they_cost():
    done = [proxy(0, 0.5, 1.0), proxy(1, 0.4, 9.0), proxy(2, 0.3, 2.0)]  # median 2 s
    assert Outlook.of([], CONFIG).eta == "4 candidates + 2 finalists"
    assert Outlook.of(done, CONFIG).eta == "2 s + 2 finalists"
    assert Outlook.of([*done, proxy(3, 0.9)], CONFIG).eta == "2 finalists"


def test_the_eta_of_finalists_is_at_their_own_pace():
    done = [proxy(n, 0.5 - n / 10) for n in range(4)]
    one = [*done, short(4, done[3])]
    assert Outlook.of(one, CONFIG).eta == "10 s"
    assert Outlook.of([*one, short(5, done[2])], CONFIG).eta == "0 s"
    assert str(Outlook.of(one, CONFIG)) == "4 of 4 candidates, 1 of 2 finalists"


def test_abandoned_candidates_are_counted_among_those_that_go_on():
    """One of four was seen to the end, and of the two in the rung above one: no place stays empty all the same."""
    config = replace(CONFIG, finalists=2, rungs=2, short_steps=300)

    def abandoned(trial):
        return replace(trial, state=TrialState.PRUNED)

    done = [proxy(0, 0.1), *(abandoned(proxy(n, n / 10)) for n in (2, 3, 4))]
    assert str(Outlook.of(done, config)) == "4 of 4 candidates, 0 of 4 at short:100, 0 of 2 finalists"
    rung = [replace(short(5 + n, t, 0.1 + n / 10), fidelity="short:100") for n, t in enumerate(done)]
    done += [rung[0], *map(abandoned, rung[1:])]
    assert str(Outlook.of(done, config)) == "4 of 4 candidates, 4 of 4 at short:100, 0 of 2 finalists"
    assert str(Outlook.of([*done, short(9, rung[0])], config)).endswith("1 of 2 finalists")


def test_the_eta_of_what_has_not_begun_is_by_the_samples_that_pass():
    """1,280 training and 100 validation samples: 1,100 pass in a proxy, 3 x 100 x 128 more in a finalist, and
    3 x 50 x 128 in the fine-tune: 5 epochs of 10 steps. At 1.1 s a proxy that is 1 ms an image."""
    samples = Samples(1280, 100)
    config = replace(CONFIG, epochs=5.0, short_steps=100, reconstruct=False, criterion="l1")
    assert [passes(f, config, samples) for f in ("proxy", "short")] == [1_100, 39_500]
    # From two starts, the layers of one fitted on 500 samples, 25 steps each: 500 + 3 x 50 x 128 more.
    assert passes("short", replace(config, reconstruct=True), samples) == 39_500 + 19_700
    assert tuning_passes(config, samples) == 19_200
    done = [proxy(n, 0.5 - n / 10, 1.1) for n in range(3)]
    assert Outlook.of(done, config, samples=samples).eta == "99 s"  # 1.1 + 2 x 39.5 + 19.2
    assert Outlook.of([], config, samples=samples).eta == "4 candidates + 2 finalists + the fine-tune"
    assert Outlook.of(done, config).eta == "1 s + 2 finalists + the fine-tune"  # a ledger of long ago
    done.append(proxy(3, 0.1, 1.1))
    one = [*done, short(4, done[3], seconds=77.9)]  # 76.8 s more than a proxy, for 38,400 samples: 2 ms
    assert Outlook.of(one, config, samples=samples).eta == "1m56s"  # 77.9 + 38.4
    both = [*one, short(5, done[2], seconds=77.9)]
    assert Outlook.of(both, config, samples=samples).eta == "38 s"
    assert Outlook.of(both, replace(config, distill=0.5), samples=samples).eta == "51 s"  # the teacher's passes: 4 / 3
    assert Outlook.of(both, config, samples=samples, tuning=Tuning(10, 50, 0.5)).eta == "20 s"
    assert Outlook.of(both, replace(config, epochs=0), samples=samples).eta == "0 s"


def test_a_long_part_says_its_own_eta_where_there_is_no_bar():
    out = io.StringIO()
    with RunProgress(Console(file=out, width=200), every_s=1e-9) as progress:
        progress.begin("fine-tuning", 20)
        progress.step(5, "loss 0.1000", "30 s")
    assert out.getvalue() == "fine-tuning: step 5 of 20, loss 0.1000, ETA 30 s\n"


def test_what_was_evaluated_is_counted_by_its_kind_everywhere():
    """Two of four candidates go on to 100 steps, one of them to 300: no number counts two kinds."""
    config = replace(CONFIG, finalists=1, rungs=2, short_steps=300)
    repeat = replace(proxy(8, 0.5), metrics={"loss": 0.5, "cached": True})
    done = [*(proxy(n, 0.5 - n / 10) for n in range(4)), repeat]
    done += [replace(short(5, done[3]), fidelity="short:100"), replace(short(6, done[2]), fidelity="short:100")]
    assert str(Outlook.of(done, config)) == "4 of 4 candidates, 2 of 2 at short:100, 0 of 1 finalist"
    assert evaluated(done, config) == "4 candidates, 2 at short:100"
    assert evaluated([*done, short(7, done[3])], config) == "4 candidates, 2 at short:100, 1 finalist"
    at_work = replace(short(7, done[3]), state=TrialState.RUNNING, metrics={})  # or interrupted by a kill
    assert evaluated([*done, at_work], config) == "4 candidates, 2 at short:100"
    assert so_far(done) == "6 evaluations done"
    assert evaluated([], config) == "no candidate yet"


def test_workers_share_what_is_left():
    done = [proxy(n, 0.5) for n in range(3)]
    assert Outlook.of(done, replace(CONFIG, trials=8, workers=2)).eta == "3 s + 2 finalists"  # 5 left, 2 at a time


def test_more_trials_bring_only_the_finalists_that_are_new():
    done = [proxy(n, 0.5 - n / 10) for n in range(4)]
    first = [*done, short(4, done[3]), short(5, done[2])]
    more = replace(CONFIG, trials=6)
    assert str(Outlook.of(first, more)) == "4 of 6 candidates, 2 of 2 finalists"
    better = [*first, proxy(6, 0.01), proxy(7, 0.9)]
    assert str(Outlook.of(better, more)) == "6 of 6 candidates, 2 of 3 finalists"
    assert Outlook.of(better, more).eta == "10 s"


@pytest.mark.parametrize("trials", [1, 3])
def test_the_total_is_never_below_what_is_done(trials):
    done = [proxy(n, 0.5) for n in range(4)] + [short(9, proxy(0, 0.5))]
    outlook = Outlook.of(done, replace(CONFIG, trials=trials, finalists=0))
    assert outlook.done == outlook.total == 5


def test_what_runs_is_left_and_what_is_cached_counts_nothing():
    cached = replace(proxy(1, 0.5), metrics={"loss": 0.5, "cached": True})
    assert str(Outlook.of([proxy(0, 0.5), cached, proxy(2)], CONFIG)).startswith("1 of 4 candidates")


def test_a_strategy_with_nothing_new_to_say_ends_the_proxies():
    cached = [replace(proxy(n, 0.5), metrics={"loss": 0.5, "cached": True}) for n in range(1, 51)]
    outlook = Outlook.of([proxy(0, 0.5), *cached], CONFIG)
    assert str(outlook) == "1 of 4 candidates, 0 of 1 finalist"
    assert (outlook.done, outlook.total) == (1, 2)  # no more will come


def test_candidates_besides_the_strategys_count_until_they_are_done():
    done = [proxy(n, 0.5 - n / 10) for n in range(4)]
    asked = Measurements(extra=((7,), (8,)))
    first = Outlook.of(done, CONFIG, measured=asked)
    assert str(first) == "4 of 4 candidates, 0 of 2 further candidates, 0 of 2 finalists"
    assert first.eta == "2 s + 2 finalists"
    one = [*done, proxy(4, 0.9)]
    one[-1] = replace(one[-1], widths=(7,))
    assert "4 of 4 candidates, 1 of 2 further candidates" in str(Outlook.of(one, CONFIG, measured=asked))
    both = [*one, replace(proxy(5, 0.9), widths=(8,))]
    assert "4 of 4 candidates, 2 of 2 further candidates" in str(Outlook.of(both, CONFIG, measured=asked))


def test_finalists_that_broke_a_latency_budget_have_others_in_their_place():
    done = [proxy(n, 0.5 - n / 10) for n in range(4)]
    done += [short(4, done[3]), short(5, done[2])]
    assert str(Outlook.of(done, CONFIG)) == "4 of 4 candidates, 2 of 2 finalists"
    broke = tuple(Measurement(trial.widths, {}, False) for trial in done[2:4])
    asked = Measurements(every=broke, closed=2, rounds=1)
    assert str(Outlook.of(done, CONFIG, measured=asked)) == "4 of 4 candidates, 2 of 4 finalists"
    assert Outlook.of(done, CONFIG, measured=replace(asked, every=(*broke, replace(broke[0], holds=True)))).total == 7


def test_progress_lines_name_the_metric_and_both_fidelities():
    out = io.StringIO()
    done = [proxy(n, 0.5 - n / 10, 2.0) for n in range(3)]
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.begin_search(replace(CONFIG, metric="mine:doubt"), done)
        progress.on_told(last := proxy(3, 0.45, 2.0))
        progress.on_told(short(4, done[2], 0.05))
    assert last.number == 3
    assert out.getvalue().splitlines() == [
        "trial 3, proxy: doubt 0.4500, 2.0 s; 4 of 4 candidates, 0 of 2 finalists, ETA 2 finalists",
        "trial 4, short: doubt 0.0500, 10.0 s (best so far); 4 of 4 candidates, 1 of 2 finalists, ETA 10 s",
    ]


def test_the_bar_labels_both_times():
    out = io.StringIO()
    with RunProgress(Console(file=out, width=160, force_terminal=True)) as progress:
        progress.begin_search(CONFIG, [])
        progress.on_told(proxy(0, 0.5))
        progress._bar.refresh()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r"elapsed \S+ ETA 4 candidates \+ 2 finalists", shown)
    assert re.search(r"elapsed \S+ ETA 3 s \+ 2 finalists", shown)


def test_a_narrow_terminal_keeps_what_matters():
    out = io.StringIO()
    with RunProgress(Console(file=out, width=40, force_terminal=True)) as progress:
        progress.begin_search(replace(CONFIG, epochs=1), [])
        progress._bar.refresh()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", out.getvalue())
    assert "…" not in shown
    assert all(len(line) <= 40 for line in shown.replace("\r", "\n").splitlines())
    words = " ".join(shown.split())
    assert [w for w in ("searching", "0 of 4", "ETA", "4 candidates", "the fine-tune") if w not in words] == []


@pytest.mark.parametrize(
    ("trained", "words"),
    [((0.1, 0.2, 0.3), "much as"), ((0.3, 0.2, 0.1), "backwards"), ((0.2, 0.2, 0.2), "finalists all have the same"),
     ((0.1, 0.3, 0.2), "roughly as"), ((0.2, 0.3, 0.2), "no better than chance"), ((0.1, 0.2), "not known from 2")],
)  # fmt: skip
def test_the_rank_correlation_in_words(trained, words):
    proxies = [proxy(n, 0.5 + n / 10) for n in range(3)]
    shorts = [short(3 + n, proxies[n], loss) for n, loss in enumerate(trained)]
    assert words in proxy_quality([*proxies, *shorts])


def test_what_nobody_writes_any_more_was_interrupted():
    trials = [proxy(0, 0.5), proxy(1)]
    assert counts(trials) == "1 complete, 1 running"
    assert counts(trials, live=False) == "1 complete, 1 interrupted, will be redone"
    repeated = replace(proxy(2, 0.5), metrics={"loss": 0.5, "cached": True})
    assert counts([*trials[:1], repeated]) == "1 complete, 1 not evaluated: as an earlier trial"


def test_lines_that_no_terminal_shows_end_where_their_words_end(capsys):
    table = Table("cost", "pruned", box=None)
    table.add_row("macs", "50 %")
    table.add_row("a longer name", "")
    console().print(table)
    sheet = Sheet()
    sheet.print(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines == repr(sheet).splitlines() == [line.rstrip() for line in lines]
    assert lines[1].endswith("50 %")


ROUGH = "short:100: after :smile: [red]x[/] [/]"  # rich would make two emoji of it, and an error


@pytest.mark.parametrize("theirs", [False, True])  # a console of the user's has rich's own settings
@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_line_and_no_bar_replaces_a_part_of_a_text(theirs, is_terminal):
    """With short:100 a log file said "short, then the sign for a hundred"; no emoji and no markup, wherever it goes."""
    out = io.StringIO()
    where = (Console if theirs else plain)(file=out, width=200, force_terminal=is_terminal)
    sheet = Sheet()
    sheet.print(ROUGH)
    sheet.print(ROUGH, markup=True, emoji=True)
    sheet.show(where)
    with RunProgress(where) as progress:
        progress.say(ROUGH)
        progress.begin(ROUGH, 3)
        progress.step(1, ROUGH, ROUGH)
        if progress._bar:
            progress._bar.refresh()
    words = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", out.getvalue())
    assert words.count(ROUGH) >= 5
    assert words.isascii() or is_terminal  # a bar is drawn
    assert not {"💯", "😄"} & {*words}
    assert repr(sheet).splitlines() == [ROUGH, ROUGH]


def test_all_consoles_show_texts_as_they_are(capsys):
    """There is one place that makes them."""
    root = Path(autoprune.__file__).parent
    makers = {str(path.relative_to(root)) for path in root.rglob("*.py") if re.search(r"\bConsole\(", path.read_text())}
    assert makers == {"report/sheet.py"}
    console().print(ROUGH)
    assert capsys.readouterr().out == f"{ROUGH}\n"


def test_names_and_plurals():
    assert [metric_label(m) for m in ("loss", "top1", "mine:doubt")] == ["loss", "1 - top-1", "doubt"]
    assert best_table([proxy(0, 0.5)], "doubt").columns[2].header.plain == "doubt"
    assert [counted(n, "frozen group") for n in (0, 1, 2)] == ["0 frozen groups", "1 frozen group", "2 frozen groups"]


@pytest.mark.parametrize("factory", ["", "package:make"])
def test_an_export_is_shown_with_its_files(tmp_path, capsys, factory):
    architecture = {
        "format": "autoprune architecture 1",
        "space": {},
        "widths": [],
        "kept": [],
        "model": {"factory": factory},
        "metrics": {"dense_val": {"top1": 0.9}, "pruned_val": {"top1": 0.875}},
        "costs": {"macs": {"dense": 1000.0, "pruned": 500.0}},
    }
    (tmp_path / "architecture.json").write_text(json.dumps(architecture))
    (tmp_path / "weights.safetensors").write_bytes(bytes(2000))
    print_export(tmp_path)
    said = capsys.readouterr().out
    assert all(words in said for words in ("-2.50 points", "50.0 %", "weights.safetensors (2 kB)"))
    assert ("model=your_dense_network" in said) is not bool(factory)


def test_the_front_of_cost_and_loss():
    """One group of 100 units, all costs proportional to its width: a unit is a percent of the MACs.

    widths, losses: (10, 0.9) (20, 0.5) (30, 0.6) (40, 0.5) (50, 0.1): 30 and 40 are no better than 20.
    """
    layer = Layer("l", "conv", 1, 1.0, Axis(1, 1), Axis(100, 0, ((0, 1),)))
    feasibility = Feasibility(SearchSpace((ChannelGroup("g", 100, ()),), (), (layer,), ()), ())
    points = [(50, 0.1), (40, 0.5), (10, 0.9), (20, 0.5), (30, 0.6)]
    trials = [replace(proxy(n, loss), widths=(width,)) for n, (width, loss) in enumerate(points)]
    table = front_table(trials, feasibility, "macs")
    assert [*map(str, table.columns[0].cells)] == ["2", "3", "0"]
    assert [*map(str, table.columns[1].cells)] == ["10 (10.0 %)", "20 (20.0 %)", "50 (50.0 %)"]
    assert front_table(trials[:3], feasibility, "macs").row_count == 3
    assert front_table([*trials[:2], replace(trials[2], probe=True)], feasibility, "macs") is None


def test_one_budget_has_no_front():
    """1000 units at 49.6 to 50 %: one whole percent."""
    layer = Layer("l", "conv", 1, 1.0, Axis(1, 1), Axis(1000, 0, ((0, 1),)))
    feasibility = Feasibility(SearchSpace((ChannelGroup("g", 1000, ()),), (), (layer,), ()), ())
    trials = [replace(proxy(n, 0.9 - n / 10), widths=(496 + n,)) for n in range(5)]
    assert front_table(trials, feasibility, "macs") is None


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://x")',
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "＝1",
        "-",
        "-x",
    ],
)
def test_no_cell_of_the_table_is_a_formula(tmp_path, text):
    shown = "'" + text.replace("\r", "\n")
    failed = Trial(0, (4,), TrialState.FAIL, {}, text, worker=text, error=text)
    write_csv(tmp_path / "trials.csv", [failed], {0: {text: -0.5}}, [text])
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert head[-2:] == [shown, f"{shown} (kept)"]
    assert dict(zip(head, row, strict=True)) | {"fidelity": "", "worker": "", "error": ""} == {
        "trial": "0", "state": "fail", "fidelity": "", "loss": "", "top1": "", "seconds": "0.000", "worker": "",
        "error": "", shown: "-0.5", f"{shown} (kept)": "4",
    }  # fmt: skip
    assert [row[head.index(name)] for name in ("fidelity", "worker", "error")] == ["'" + printable(text)] * 3


@pytest.mark.parametrize(
    "text", ["-0.5", "+3", "-1e-3", "-inf", "plain", "a=b", "it's", "'quoted'", "out of memory - again"]
)
def test_numbers_and_plain_texts_stay_as_they_are(tmp_path, text):
    write_csv(tmp_path / "trials.csv", [Trial(0, (4,), TrialState.FAIL, error=text)], {0: {"macs": -0.5}}, ["stem"])
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["error"], row["macs"]) == (text, "-0.5")


@pytest.mark.parametrize(
    ("metric", "score", "names"),
    [
        ("loss", Score("loss"), ["loss"]),  # a task with a loss and nothing else
        ("loss", Score("top1", True, 1.0), ["loss", "top1"]),
        ("MAE", Score("mae"), ["MAE"]),  # --metric mae
        ("1 - top-1", Score("top1", True, 1.0), ["1 - top-1", "top1"]),
        ("error", Score("seconds"), ["error (minimised)", "seconds (score)"]),  # as columns are called that are there
    ],
)
def test_no_two_columns_of_the_table_have_one_name(tmp_path, metric, score, names):
    """Whatever the scores, costs and layers of a run are called; a table on a terminal says no number twice."""
    trial = replace(proxy(0, 0.5), widths=(1, 2, 3, 4), metrics={"loss": 0.5, "top1": 0.75, "mae": 0.5, "seconds": 9.0})
    write_csv(
        tmp_path / "trials.csv", [trial], {0: {"params": 3.0}}, ["stem", "params", "loss", "worker"], metric, score
    )
    head, row = csv.reader(io.StringIO((tmp_path / "trials.csv").read_text()))
    assert len(set(head)) == len(head) == len(row)
    assert head[:3] + head[3 + len(names) : 7 + len(names)] == [
        "trial", "state", "fidelity", "seconds", "worker", "error", "params",
    ]  # fmt: skip
    assert head[3 : 3 + len(names)] == names
    assert row[3 : 3 + len(names)] == ["0.5", {"top1": "0.75", "seconds": "9"}.get(score.name, "")][: len(names)]
    shown = [str(column.header) for column in best_table([trial], metric, score=score).columns]
    assert len(shown) == 5 + len(score.beside(metric))


def test_the_minimised_number_has_one_name_everywhere(tmp_path):
    write_csv(tmp_path / "trials.csv", [proxy(0, 0.5)], {0: {"macs": 3.0}}, ["stem"], "doubt")
    head = (tmp_path / "trials.csv").read_text().splitlines()[0]
    assert "doubt" in head
    assert "loss" not in head
    before, after = {"loss": 9.0, "top1": 0.5, "mine:doubt": 0.4, "delivered": False}, {"loss": 8.0, "mine:doubt": 0.3}
    rows = recovery_rows({"before_finetune_val": before, "after_finetune_val": after})
    assert [row[-1] for row in rows] == ["doubt 0.4 before, 0.3 after"]
    assert proxy_quality([proxy(0, 0.5)], "doubt").startswith("rank correlation of the quick score and the doubt after")
    assert RunConfig(front=("macs",), metric="mine:doubt").goal == "front of doubt and macs"

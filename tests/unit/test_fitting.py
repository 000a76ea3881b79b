"""Tables fit their terminal: at every width all words are there, whole, and no line is longer than it."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import autoprune
from autoprune.problem import Trial, TrialState
from autoprune.report import best_table, comparison_table, console, groups_table
from autoprune.report.fitting import FittingTable
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace

SPACE = SearchSpace(
    (ChannelGroup("encoder.layers.0.feed_forward", 1024, ()), ChannelGroup("stem", 8, ())),
    (),
    (Layer("stem", "conv", 9, 64, Axis(3, 3), Axis(8, 0, ((1, 1),))),),
    (),
)


def shown(table, width):
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
    return out.getvalue()


def trial(number, widths, fidelity):
    metrics = {"loss": 0.1234, "top1": 0.9876}
    return Trial(number, widths, TrialState.COMPLETE, metrics, fidelity, seconds=12.5)


BEST = best_table([trial(12, (512, 8), "short"), trial(7, (256, 4), "reconstructed")], "loss", {12: "winner"})
COMPARED = comparison_table("dense and pruned", [("top-1, validation images", "0.9500", "0.9300", "-2.00 points")])


@pytest.mark.parametrize("width", [20, 40, 66, 80, 200])
@pytest.mark.parametrize(
    ("table", "words"),
    [
        (BEST, ["best trials", "trial", "12", "reconstructed", "0.1234", "0.9876", "12.5", "winner", "512 8"]),
        (COMPARED, ["dense and pruned", "validation", "0.9500", "0.9300", "-2.00 points"]),
        (groups_table(SPACE, (512, 8)), ["2 prunable groups", "1024", "512 (50.0 %)", "8 (100.0 %)"]),
    ],
)
def test_no_line_is_too_long_and_no_word_is_cut(table, words, width):
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert [w for w in words if w not in " ".join(text.split())] == []


def test_a_row_without_room_for_columns_is_a_short_list():
    assert [line.rstrip() for line in shown(COMPARED, 40).splitlines()] == [
        "dense and pruned",
        "top-1, validation images",
        "  dense 0.9500 · pruned 0.9300",
        "  -2.00 points",
    ]
    assert "┃" in shown(COMPARED, 66)


def test_only_names_and_widths_give_way_before_the_columns_do():
    table = FittingTable()
    table.add_column("name", overflow="fold")
    table.add_column("number", justify="right")
    table.add_row(Text("x" * 50), "123.4 million")
    wide = shown(table, 80)
    assert "x" * 50 in wide
    folded = shown(table, 40)  # 7 cells of borders and padding leave 33: 13 for the number's words, at least 20 a name
    assert "┃" in folded
    assert "x" * 50 not in folded
    assert folded.count("x") == 50
    assert "┃" not in shown(table, 30)
    assert shown(table, 30).count("x") == 50


@pytest.mark.parametrize("width", [20, 100])  # as a list, and as a table
@pytest.mark.parametrize("made", [str, Text])
def test_texts_that_look_like_markup_or_an_emoji_are_shown_as_they_are(made, width):
    texts = [f"{place} [red]x[/] short:100:" for place in ("title", "head", "cell")]
    table = FittingTable(title=texts[0])
    table.add_column("a", overflow="fold")
    table.add_column(made(texts[1]))
    table.add_row(made("[/]:100:"), made(texts[2]))
    words = " ".join(shown(table, width).split())
    assert [text for text in (*texts, "[/]:100:") if text not in words] == []


def test_no_text_of_ours_is_markup():
    """It would be shown as it is: what is dim or bold is a `rich.text.Text`."""
    markup = re.compile(r"\[/?(bold|dim|italic|red|green|yellow|blue|cyan|magenta|white)\b[^]]*\]|\[/\]")
    sources = Path(autoprune.__file__).parent.rglob("*.py")
    assert [f"{path.name}: {found[0]}" for path in sources if (found := markup.search(path.read_text()))] == []


def test_a_pipe_is_wide_unless_columns_says_otherwise(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == 160
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width == 40

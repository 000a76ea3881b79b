"""The pages in a real browser: runs are searched, their pages are opened on a phone and a desk, by day and by night.

Needs Chromium: `apt-get install chromium`, or `playwright install chromium`. Every page that is opened is kept as a
picture in $AUTOPRUNE_SCREENSHOTS, or else in pytest's directory for temporary files (choose it with --basetemp).
"""

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from autoprune.cli import main

pytest.importorskip("matplotlib", reason="pip install 'autoprune[report]'")
driver = pytest.importorskip("playwright.sync_api", reason="pip install 'autoprune[dev]'")
PLACES = [(width, theme) for width in (390, 1280) for theme in ("light", "dark")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DATA = Path(__file__).parents[1] / "data"
ESCAPED = "<b>two & three"
RUNS = {  # name -> what its search is told besides QUICK
    "one": [],
    ESCAPED: ["--strategy", "random", "--budget", "params<=40%"],
    "timed": ["--budget", "latency<=60%@slow_device:Slow", "--budget", "macs<=60%", "--finalists", "2"],
    "front": ["--front", "macs,params", "--trials", "8"],
    "failed": ["--metric", "no_metric:boom"],
}
QUICK = ["--data", "digits", "--score-samples", "64", "--val-samples", "100", "--bn-samples", "64"]
QUICK += ["--short-steps", "2", "--finalists", "3", "--epochs", "0.2"]
QUICK += ["--trials", "6", "--criterion", "l1", "--fidelity", "proxy"]
BY_COST = ["cost-macs", "cost-params", "cost-activations"]
TIMED = "latency-slow_device-Slow-batch-1-threads-1"
CHARTS = {
    "one": ["history", "choices", "training", "widths", *BY_COST, "ranking", "classes"],
    ESCAPED: ["history", "choices", "training", "widths", *BY_COST, "ranking", "classes"],
    "timed": [
        "history", "front", "training", "widths", "cost-macs", f"cost-{TIMED}", *BY_COST[1:], "ranking", "classes",
        f"predictor-{TIMED}", f"measured-{TIMED}",
    ],
    "front": [
        "history", "front", "front-params", "hypervolume", "training", "widths", *BY_COST, "ranking", "classes",
    ],
    "failed": [],
    "compare": ["history", "front-macs", "front-params", "hypervolume", "results", "widths"],
}  # fmt: skip

PNG = ("timed", "failed")


@pytest.fixture(scope="module")
def browser():
    """Chromium: the system's, or the one that `playwright install chromium` brought."""
    with driver.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)
        if not found:
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(digits_weights):
    """Runs of a few candidates and their pages: name -> file."""
    before, folder = os.getcwd(), digits_weights.parent / "pages"  # of all workers: the first one makes them
    folder.mkdir(exist_ok=True)
    (folder / "no_metric.py").write_text(NO_METRIC)
    with pytest.MonkeyPatch.context() as patch, (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.syspath_prepend(DATA)
        patch.chdir(folder)
        import slow_device

        patch.setattr("objectives.latency.needed.study", slow_device.study)
        common = ["search", "--model", "search_spaces.models:digits_cnn", "--weights", str(digits_weights), *QUICK]
        if not Path("made").exists():
            for name, more in RUNS.items():
                assert main([*common, *more, "--name", name]) == (1 if name == "failed" else 0)
                assert main(["report", f"results/{name}", *["--png"] * (name in PNG)]) == 0
            assert main(["compare", *(f"results/{name}" for name in RUNS)]) == 0
            Path("made").touch()
        fcntl.flock(lock, fcntl.LOCK_UN)
        found = {name: Path(f"results/{name}/report.html").resolve() for name in RUNS}
        yield found | {"compare": Path("results/compare.html").resolve()}
    assert os.getcwd() == before
    sys.modules.pop("no_metric", None)  # not slow_device: other tests have set that one up


NO_METRIC = """
from pathlib import Path


def boom(logits, labels):
    if Path("results/failed").exists():  # the search has begun: before, it is checked
        raise RuntimeError("<i>no metric today</i>")
    return 1.0
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Where the screenshots are kept."""
    own = os.environ.get("AUTOPRUNE_SCREENSHOTS")
    folder = Path(own) if own else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(("width", "theme"), PLACES)
@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_and_fits(browser, pages, name, width, theme, pictures):
    """No message on the console, no request, no sideways scroll; the charts have a size and the theme's colours."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    page.set_default_timeout(120_000)  # milliseconds: a busy machine draws slowly
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    picture = pictures / f"{name.strip('<b>').replace(' ', '-')}-{width}-{theme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    drawn = page.evaluate(SIZES)
    assert [chart["name"] for chart in drawn] == CHARTS[name]
    for chart in drawn:
        assert chart["shown"] == 1, chart  # the wide or the narrow one
        assert width * 0.35 < chart["width"] <= width, chart
        assert chart["height"] > 100, chart
        assert chart["marks"] > 5, chart
        assert chart["text"] >= 9, chart  # pixels
        assert chart["label"], chart
        assert chart["cut"] == [], chart
        assert chart["overlap"] == [], chart
    assert page.evaluate(BRIGHTNESS, "document.documentElement") == (theme == "light")
    assert page.evaluate(BRIGHTNESS, "h1") == (theme == "dark")
    if drawn:
        assert page.evaluate(BRIGHTNESS, "svg text") == (theme == "dark")

    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # with all tables open too
    page.close()


def test_on_a_phone_no_name_is_broken_amid_a_word(browser, pages):
    for name, width in (("one", 390), ("one", 340), ("compare", 390)):
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.goto(pages[name].as_uri())
        assert page.evaluate(BROKEN) == [], name
        page.close()


# Words, or parts of words that may be broken between them, that stand on two lines; code that is to be copied may.
BROKEN = """(() => {
  const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT), found = [];
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (text.parentElement.closest('svg, pre')) continue;
    for (const word of text.data.matchAll(/\\w+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set(Array.from(range.getClientRects(), r => Math.round(r.top))).size > 1) found.push(text.data);
    }
  }
  return found;
})()"""

# Of each chart: its name, how many pictures of it are seen, the size of that, its marks, the height of its smallest
# text in pixels, the texts that reach beyond it, and the pairs of texts that lie on one another.
SIZES = """Array.from(document.querySelectorAll('figure'), figure => {
  const box = element => element.getBoundingClientRect();
  const svgs = Array.from(figure.querySelectorAll('svg')).filter(s => box(s).width > 0);
  const frame = box(svgs[0]);
  const marks = Array.from(svgs[0].querySelectorAll('path,use')).filter(m => box(m).width > 0);
  const texts = Array.from(svgs[0].querySelectorAll('text'), t => [t.textContent, box(t)]);
  const cut = texts.filter(([_, t]) => t.left < frame.left - 1 || t.right > frame.right + 1 ||
    t.top < frame.top - 1 || t.bottom > frame.bottom + 1);
  const pairs = texts.flatMap((a, i) => texts.slice(0, i).map(b => [a, b])).filter(([[_, a], [__, b]]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.4 * Math.min(a.height, b.height));
  return {name: figure.id, shown: svgs.length, width: frame.width, height: frame.height, marks: marks.length,
          text: Math.min(...texts.map(([_, t]) => t.height)), label: svgs[0].getAttribute('aria-label'),
          cut: cut.map(([s, _]) => s), overlap: pairs.map(([[a, _], [b, __]]) => [a, b])};
})"""
BRIGHTNESS = """what => {
  const element = what === 'document.documentElement' ? document.documentElement : document.querySelector(what);
  const style = getComputedStyle(element);
  const color = what === 'svg text' ? style.fill : what === 'h1' ? style.color : style.backgroundColor;
  return color.match(/[0-9]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) > 384;
}"""


def test_a_phone_shows_what_came_out_before_any_chart(browser, pages):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["one"].as_uri())
    result, chart = (page.query_selector(s).bounding_box() for s in ("#result", "figure"))
    assert result["y"] + result["height"] < 844 < chart["y"] + chart["height"]
    assert result["y"] < chart["y"]
    page.close()


@pytest.mark.parametrize("name", PNG)
def test_the_charts_of_the_page_are_there_as_png(pages, name):
    charts = list((pages[name].parent / "charts").glob("*.png"))
    assert sorted(path.stem for path in charts) == sorted(CHARTS[name])
    assert all(path.stat().st_size > 5000 for path in charts)


@pytest.mark.slow
def test_the_name_of_a_run_is_only_a_name(browser, pages):
    page = browser.new_page()
    page.goto(pages[ESCAPED].as_uri())
    assert page.inner_text("h1").startswith(ESCAPED)
    assert page.query_selector("b") is None
    page.close()


@pytest.mark.slow
def test_a_page_says_where_the_run_was_made_and_the_ledger_does_not_ask(pages):
    """A run may go on on another machine: only the versions that a result depends on make it another problem."""
    provenance = json.loads((pages["one"].parent / "best" / "architecture.json").read_text())["provenance"]
    assert {"cpu", "cores", "threads"} <= provenance["versions"].keys()
    assert provenance["fingerprint"]["versions"].keys() == {"autoprune", "torch", "optuna"}
    assert provenance["versions"]["cpu"] in pages["one"].read_text()

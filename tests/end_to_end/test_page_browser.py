"""The pages in a real browser: a run is searched, its pages are opened on a phone and a desk, by day and by night."""

import os
import shutil
from pathlib import Path

import pytest

from autoprune.cli import main

pytest.importorskip("matplotlib", reason="pip install 'autoprune[report]'")
driver = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
PLACES = [(width, theme) for width in (390, 1280) for theme in ("light", "dark")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Chromium: the system's, or the one that `playwright install chromium` brought."""
    with driver.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)
        if not found:
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(digits_weights, tmp_path_factory):
    """Two runs of a few candidates, one finished and one with failures, and their pages."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("pages"))
    try:
        search = ["search", "--model", "search_spaces.models:digits_cnn", "--weights", str(digits_weights)]
        search += ["--data", "digits", "--score-images", "64", "--val-images", "100", "--bn-images", "64"]
        search += ["--short-steps", "2", "--finalists", "3", "--epochs", "0.2", "--trials", "6"]
        for name, more in (("one", []), ("<b>two & three", ["--strategy", "random", "--budget", "params<=40%"])):
            assert main([*search, "--name", name, *more]) == 0
            assert main(["report", f"results/{name}", "--png"]) == 0
        assert main(["compare", "results/one", "results/<b>two & three"]) == 0
        yield {
            "report": Path("results/one/report.html").resolve(),
            "escaped": Path("results/<b>two & three/report.html").resolve(),
            "compare": Path("results/compare.html").resolve(),
        }
    finally:
        os.chdir(before)


CHARTS = {"report": 7, "escaped": 7, "compare": 3}


@pytest.mark.parametrize(("width", "theme"), PLACES)
@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_and_fits(browser, pages, name, width, theme, tmp_path):
    """No message on the console, no request, no sideways scroll; the charts have a size and the theme's colours."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    page.screenshot(path=tmp_path / f"{name}-{width}-{theme}.png", full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    drawn = page.evaluate(SIZES)
    assert len(drawn) == CHARTS[name]
    for chart in drawn:
        assert chart["shown"] == 1, chart  # the wide or the narrow one
        assert width * 0.35 < chart["width"] <= width, chart
        assert chart["height"] > 100, chart
        assert chart["marks"] > 5, chart
        assert chart["text"] >= 9, chart  # pixels
        assert chart["label"], chart
    light = (
        sum(
            map(
                int,
                page.evaluate("getComputedStyle(document.documentElement).backgroundColor").strip("rgb()").split(","),
            )
        )
        > 384
    )
    ink = (
        sum(
            map(
                int,
                page.evaluate("getComputedStyle(document.querySelector('svg text')).fill").strip("rgb()").split(","),
            )
        )
        > 384
    )
    assert (light, ink) == ((True, False) if theme == "light" else (False, True))

    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # with all tables open too
    page.close()


SIZES = """Array.from(document.querySelectorAll('figure'), figure => {
  const svgs = Array.from(figure.querySelectorAll('svg')).filter(s => s.getBoundingClientRect().width > 0);
  const box = svgs[0].getBoundingClientRect();
  const marks = Array.from(svgs[0].querySelectorAll('path,use')).filter(m => m.getBoundingClientRect().width > 0);
  const texts = Array.from(svgs[0].querySelectorAll('text'), t => t.getBoundingClientRect().height);
  return {name: figure.id, shown: svgs.length, width: box.width, height: box.height, marks: marks.length,
          text: Math.min(...texts), label: svgs[0].getAttribute('aria-label')};
})"""


def test_a_phone_shows_what_came_out_before_any_chart(browser, pages):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["report"].as_uri())
    result, chart = (page.query_selector(s).bounding_box() for s in ("#result", "figure"))
    assert result["y"] + result["height"] < 844 < chart["y"] + chart["height"]
    assert result["y"] < chart["y"]
    page.close()


def test_the_charts_are_there_as_png(pages):
    charts = sorted((pages["report"].parent / "charts").glob("*.png"))
    assert len(charts) == CHARTS["report"]
    assert all(path.stat().st_size > 5000 for path in charts)


def test_the_name_of_a_run_is_only_a_name(browser, pages):
    page = browser.new_page()
    page.goto(pages["escaped"].as_uri())
    assert page.inner_text("h1").startswith("<b>two & three")
    assert page.query_selector("b") is None
    page.close()

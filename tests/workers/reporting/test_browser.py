"""Reports in Chromium, as people open them: from disk, in both themes, on a phone, without scripts, printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.reports.schemas import Report
from scripts.chromium import Page, browser, chromium
from tests.workers.reporting.samples import HOSTILE, benchmarked, optimized, profiled
from workers.reporting.html import page as html

EXECUTABLE = chromium()
REPORTS = {
    "optimize": optimized(),
    "profile": profiled(),
    "benchmark": benchmarked(),
    "hostile": optimized(HOSTILE),
    "hostile profile": profiled(HOSTILE),
}
DRAWN = "document.documentElement.dataset.drawn !== undefined"
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert EXECUTABLE is not None
    with browser(EXECUTABLE) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    written = {name: folder / f"{name.replace(' ', '-')}.html" for name in REPORTS}
    for name, path in written.items():
        path.write_text(html(REPORTS[name]), encoding="utf-8")
    return written


def charts(report: Report) -> int:
    return html(report).count("data-chart=")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_draws_asks_for_nothing_and_complains_of_nothing(
    page: Page, files: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    page.requested.clear()
    page.complaints.clear()
    page.open(files[name].as_uri(), width=width, dark=dark)
    page.wait_for(DRAWN)
    assert page.complaints == []
    assert page.requested == [files[name].as_uri()]
    count = charts(REPORTS[name])
    assert count >= 3
    assert (
        page.value("[...document.querySelectorAll('.chart svg')].filter(one => one.clientWidth > 200).length")
        == count
    )
    assert page.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert page.value("[...document.querySelectorAll('.chart')].every(one => one.ariaLabel.length > 30)")
    assert page.value("window.hacked") is None
    ground = page.value(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (sum(ground) < 3 * 128) is dark
    # the charts' colours follow too: the axes' labels stand out from the page
    label = page.value(
        "getComputedStyle(document.querySelector('.chart svg text')).fill.match(/\\d+/g).map(Number)"
    )
    assert abs(sum(label[:3]) - sum(ground[:3])) > 3 * 80


def test_the_policy_stops_what_is_not_of_the_page(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    """The test before could not see a request that nobody makes: here somebody does."""
    text = files["optimize"].read_text(encoding="utf-8")
    more = '<script>window.hacked=1</script><img src="http://127.0.0.1:9/x.png"><p style="color:red">x</p>'
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(text.replace("<main>", f"<main>{more}"), encoding="utf-8")
    page.complaints.clear()
    page.open(spoilt.as_uri())
    page.wait_for(DRAWN)
    assert page.value("window.hacked") is None
    refused = " ".join(page.complaints)
    for directive in ("script-src", "img-src", "style-src"):
        assert directive in refused


def test_tables_sort_by_their_numbers(page: Page, files: dict[str, Path]) -> None:
    page.open(files["profile"].as_uri())
    table = "[...document.querySelectorAll('table[data-sortable]')].find(one => one.tHead.textContent.includes('share'))"
    first = f"{table}.tBodies[0].rows[0].cells[1].textContent"
    press = f"[...{table}.tHead.rows[0].cells].find(one => one.textContent === '{{}}').querySelector('button').click()"
    state = f"[...{table}.tHead.rows[0].cells].find(one => one.textContent === '{{}}').ariaSort"
    assert page.value(first) == "Conv"
    page.value(press.format("calls"))
    assert page.value(first) == "Reorder"
    assert page.value(state.format("calls")) == "descending"
    page.value(press.format("time"))
    assert page.value(first) == "Conv"
    page.value(press.format("time"))
    assert page.value(first) == "Reorder"
    assert page.value(state.format("time")) == "ascending"
    assert page.value(state.format("calls")) is None


def test_the_theme_can_be_chosen(page: Page, files: dict[str, Path]) -> None:
    page.open(files["optimize"].as_uri())
    page.wait_for(DRAWN)
    scheme = "getComputedStyle(document.documentElement).colorScheme"
    shown = [page.value(scheme)]
    for _ in range(3):
        page.value("document.getElementById('theme').click()")
        shown.append(page.value(scheme))
    assert shown == ["light dark", "light", "dark", "light dark"]
    assert page.value("document.getElementById('theme').textContent") == "Theme: auto"


def test_numbers_are_there_without_scripts(page: Page, files: dict[str, Path]) -> None:
    page.open(files["optimize"].as_uri(), scripts=False)
    assert page.value("document.querySelectorAll('.chart svg').length") == 0
    text = page.value("document.body.innerText")
    for said in (
        "Charts are drawn by a script",
        "0.268 to 0.271 ms",
        "2.95× faster",
        "burnish optimize mdl_1",
    ):
        assert said in text
    assert page.value("document.getElementById('theme').checkVisibility()") is False


def test_what_is_folded_is_printed(page: Page, files: dict[str, Path]) -> None:
    page.open(files["optimize"].as_uri())
    page.wait_for(DRAWN)
    folded = "document.querySelectorAll('details:not([open])').length"
    assert page.value(folded) > 0
    page.value("dispatchEvent(new Event('beforeprint'))")
    assert page.value(folded) == 0
    page.value("dispatchEvent(new Event('afterprint'))")
    assert page.value(folded) > 0


def test_tooltips_show_names_as_text(page: Page, files: dict[str, Path]) -> None:
    page.open(files["hostile profile"].as_uri())
    page.wait_for(DRAWN)
    bar = "[...document.querySelectorAll('.chart')].find(one => one.ariaLabel.startsWith('The slowest')).querySelector('.mark-rect path')"
    page.value(f"{bar}.scrollIntoView()")
    place = page.value(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({bar}.getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    page.wait_for("document.getElementById('vg-tooltip-element')?.classList.contains('visible')")
    assert "<script>window.hacked=1</script>" in page.value(
        "document.getElementById('vg-tooltip-element').innerText"
    )
    assert (
        page.value("document.querySelectorAll('#vg-tooltip-element script, #vg-tooltip-element img').length")
        == 0
    )
    assert page.value("window.hacked") is None

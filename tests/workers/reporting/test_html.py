"""The HTML report as a file: whole, closed, and deaf to what names would like to do. `test_browser.py` opens it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from app.reports.schemas import Report
from tests.workers.reporting.samples import HOSTILE, benchmarked, optimized, profiled
from workers.reporting.distribution import distribution
from workers.reporting.html import page

VOID = {"meta", "link", "br", "img"}


class Tree(HTMLParser):
    """Elements with their attributes and text; fails where one is closed that was not opened last."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert len(dict(attrs)) == len(attrs)
        if tag in VOID:
            self.found.append((tag, dict(attrs), ""))
        else:
            self.open.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        opened, attributes, texts = self.open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"
        self.found.append((tag, attributes, "".join(texts)))
        if self.open:
            self.open[-1][2].extend(texts)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for found, attributes, text in self.found if found == tag]


@pytest.mark.parametrize("report", [optimized(), profiled(), benchmarked(), optimized(HOSTILE), profiled(HOSTILE)],
                         ids=["optimize", "profile", "benchmark", "hostile", "hostile profile"])  # fmt: skip
def test_a_report_is_whole_and_closed(report: Report) -> None:
    tree = Tree(page(report))
    kinds = {tag for tag, _, _ in tree.found}
    assert not kinds & {"img", "iframe", "object", "embed", "form", "base", "svg"}
    assert len(tree.all("h1")) == 1
    assert [attributes["rel"] for attributes, _ in tree.all("link")] == ["icon"]
    for tag, attributes, _ in tree.found:
        assert not any(
            name.startswith("on") or name in ("style", "srcset", "action") for name in attributes
        ), tag
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), tag
    for _, text in tree.all("title"):
        assert "\u202e" not in text


@pytest.mark.parametrize(
    "report", [optimized(), profiled(), benchmarked()], ids=["optimize", "profile", "benchmark"]
)
def test_headings_captions_and_anchors(report: Report) -> None:
    tree = Tree(page(report))
    ids = [attributes["id"] for _, attributes, _ in tree.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    anchors = {attributes["href"] for attributes, _ in tree.all("a")}
    assert anchors
    assert anchors <= {f"#{one}" for one in ids}
    assert {attributes["aria-labelledby"] for attributes, _ in tree.all("section")} <= set(ids)
    tables, captions = tree.all("table"), tree.all("caption")
    assert len(tables) == len(captions) > 3
    assert all(text.strip() for _, text in captions)
    assert all(attributes.get("scope") in ("row", "col") for attributes, _ in tree.all("th"))
    charts = [attributes for attributes, _ in tree.all("div") if "data-chart" in attributes]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_the_policy_allows_what_is_there_and_nothing_else() -> None:
    tree = Tree(page(optimized()))
    policy = next(
        attributes["content"] for attributes, _ in tree.all("meta") if attributes.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = [
        text for attributes, text in tree.all("script") if attributes.get("type") != "application/json"
    ]
    assert set(rules["script-src"].split()) == {hashed(text) for text in scripts}
    assert rules["style-src"].split() == [hashed(text) for _, text in tree.all("style")]


def test_hostile_names_are_shown_as_they_are() -> None:
    tree = Tree(page(optimized(HOSTILE)))
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert any(shown in code for _, code in tree.all("code"))
    assert tree.all("h1")[0][1].startswith(shown)
    scripts = tree.all("script")
    assert len(scripts) == 3, "the charts' data, the library and the page's own"
    (data,) = [text for attributes, text in scripts if attributes.get("type") == "application/json"]
    assert not set("<>&") & set(data)
    values = [row for chart in json.loads(data)["charts"] for row in chart["data"]["values"]]
    assert HOSTILE in {row.get("name") for row in values}


def test_numbers_that_everybody_looks_for() -> None:
    text = page(optimized())
    lead = re.search(r'<p class="lead good">(.*?)</p>', text)
    assert lead is not None
    assert "<strong>2.95× faster</strong> than the original (95% interval 2.908 to 3.137)" in lead[1]
    assert "the budget of 0.02 is <strong>kept</strong>" in lead[1]
    cell = re.search(r"latency p50</th>\s*<td[^>]*>([^<]*)\s*<small>([^<]*)</small>", text)
    assert cell is not None
    assert (cell[1].strip(), cell[2]) == ("0.27 ms", "0.268 to 0.271 ms")


def test_an_engine_that_nobody_could_run() -> None:
    report = optimized(distributions=[], measurements=[], surgery=[])
    for side in ("baseline", "optimized"):
        unknown = dict.fromkeys(("latency", "throughput_per_s", "peak_memory_bytes", "load_ms", "accuracy"))
        report.result[side] = {**report.result[side], **unknown}
    comparison = {
        "speedup": None, "control": None, "speedup_over_reference": None, "accuracy_drop": None, "within_budget": "undecided",
        "fidelity": {"outputs": {}}, "why": [], "model_fidelity": report.result["comparison"]["fidelity"],
    }  # fmt: skip
    report.result["comparison"] |= comparison
    report.result |= {"verification": "unverified", "unverified_reason": "no such GPU"}
    text = page(report)
    assert "<strong>Unverified</strong>: no such GPU" in text
    assert 'class="lead warn"' in text
    assert "the engine itself was not run" in text
    assert "data-chart" not in text
    assert len(text) < 100_000, "without charts it needs no library"


def test_profiles_and_benchmarks_that_saw_little() -> None:
    profile, benchmark = profiled().profile, benchmarked().benchmark
    assert profile is not None
    assert benchmark is not None
    still = [layer.model_copy(update={"mean_ms": 0.0, "share": 0.0}) for layer in profile.layers]
    bare = {
        "advice": [],
        "peaks": None,
        "phases": [],
        "memory": [],
        "peak_memory_bytes": None,
        "gap": None,
        "notes": [],
    }
    for changed in ({"layers": []}, {"layers": still}, {**bare, "layers": still[:1]}):
        Tree(page(profiled(profile=profile.model_copy(update=changed), distributions=[])))
    failed = [point for point in benchmark.points if point.status == "failed"]
    text = page(benchmarked(benchmark=benchmark.model_copy(update={"points": failed, "knees": []})))
    assert "failed: net.onnx does not fit" in text
    at_once = [distribution("baseline", [[[0, 3], [2]]]), distribution("optimized", [[[1]], [[2, 2]]])]
    Tree(page(optimized(distributions=at_once)))

"""The Markdown report: tables that hold together, names that stay names."""

import json
import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.reports.schemas import Report
from tests.workers.reporting.samples import HOSTILE, benchmarked, optimized, profiled
from workers.reporting.blocks import Code, Strong
from workers.reporting.markdown import inline, text

TOO_LONG = 65_536  # letters of a comment on GitHub


def tokens(written: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(written)


@pytest.mark.parametrize("report", [optimized(), profiled(), benchmarked(), optimized(HOSTILE), profiled(HOSTILE)],
                         ids=["optimize", "profile", "benchmark", "hostile", "hostile profile"])  # fmt: skip
def test_tables_have_as_many_cells_as_columns(report: Report) -> None:
    written = text(report)
    tables = [block.split("\n") for block in re.findall(r"(?:^\|.*\n)+", written, re.MULTILINE)]
    assert len(tables) > 3
    for rows in tables:
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if row}
        assert len(counts) == 1, rows
    assert len(written) < TOO_LONG
    assert written.count("<details>") == written.count("</details>")


def test_nothing_of_a_hostile_name_is_markup() -> None:
    plain, hostile = (tokens(text(optimized(name))) for name in ("net", HOSTILE))
    assert [one.type for one in hostile if one.level == 0] == [one.type for one in plain if one.level == 0]
    inside = [child for token in hostile for child in token.children or []]
    assert {child.type for child in inside} <= {
        "text",
        "code_inline",
        "strong_open",
        "strong_close",
        "softbreak",
        "text_special",
    }
    blocks = {
        line for token in hostile if token.type == "html_block" for line in token.content.strip().split("\n")
    }
    assert all(re.fullmatch(r"<details><summary>[^<]*</summary>|</details>", line) for line in blocks)
    named = HOSTILE.replace("\u202e", "\\u202e").replace("\n", " ")
    assert named in {child.content for child in inside if child.type == "code_inline"}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["plain"], "plain"),
        (["a_b*c", Code("x")], r"a\_b\*c`x`"),
        ([Code("a`b")], "``a`b``"),
        ([Code("`a")], "`` `a ``"),
        ([Code("a|b")], r"`a\|b`"),
        ([Strong("2×"), " & <b>"], r"**2×** &amp; \<b\>"),
        (["two\nlines"], "two lines"),
    ],
    ids=["words", "special letters", "backquote", "backquote at an end", "bar", "strong", "lines"],
)
def test_words(given: list[str | Code | Strong], written: str) -> None:
    assert inline(given) == written


def test_a_recipe_with_backquotes_stays_in_its_fence() -> None:
    (recipe,) = [
        one for one in tokens(text(optimized("a```b"))) if one.info == "json" and "schema" in one.content
    ][:1]
    assert json.loads(recipe.content)["passes"][1]["params"] == {"excluded_nodes": ["a```b"]}

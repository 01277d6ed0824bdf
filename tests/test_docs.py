"""The documentation agrees with the code, and with itself."""

import re
from pathlib import Path

import pytest
import typer
from pydantic import Field

from app import __version__
from app.catalog.passes import PASSES
from app.catalog.spec import Params, PassSpec
from app.cli import app as command_line
from app.config import Settings
from app.observability.metrics import count_request, exposition
from scripts import reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
ROOMS = (
    "app/",
    "workers/",
    "migrations/",
    "tests/",
    "docs/",
    "scripts/",
    "requirements/",
    "benchmarks/",
    "demo/",
    "deploy/",
)
OTHER_VARIABLES = {*reference.CLIENT_VARIABLES}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_is_what_the_code_says() -> None:
    assert reference.differences() == [], "run `make reference`"


def test_everything_in_the_reference_is_described() -> None:
    assert reference.undescribed() == []


def test_a_thing_without_description_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Params):
        mute: int = 0
        heard: int = Field(default=0, description="Says what it is.")

    Silent.__doc__ = None
    spec = PassSpec("silent", 1, "Silent", Silent, frozenset({"fp32"}), None, over_2gb=False)
    monkeypatch.setitem(PASSES, "silent", spec)
    assert reference.undescribed() == ["silent", "silent.mute"]
    assert "passes.md" in reference.differences()


def test_the_reference_names_every_error_and_every_setting() -> None:
    pages = reference.pages()
    assert all(f"`BURNISH_{name.upper()}`" in pages["settings.md"] for name in Settings.model_fields)
    assert "`budget_not_met`" in pages["errors.md"]
    assert "`burnish jobs wait`" in pages["commands.md"]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_named_files_exist(page: Path) -> None:
    named = [code for code in CODE.findall(page.read_text(encoding="utf-8")) if code.startswith(ROOMS)]
    missing = [
        code for code in named if not re.search(r"[A-Z<{*… ]|\.\.\.", code) and not (ROOT / code).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_named_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= targets
    groups = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    for name, member in re.findall(r"`burnish ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", text):
        assert name in groups, f"burnish {name}"
        members = getattr(groups[name], "commands", None)
        assert not (member and members) or member in members, f"burnish {name} {member}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_named_variables_are_settings(page: Path) -> None:
    known = {f"BURNISH_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"BURNISH_[A-Z0-9_]*[A-Z]", page.read_text(encoding="utf-8"))) <= known


def test_every_prometheus_metric_is_explained(burnish_sqlite: Settings) -> None:
    count_request("/healthz", "GET", 200, 0.1)  # its families are there once there was one
    families = set(re.findall(r"^# TYPE (burnish_\w+)", exposition().decode(), re.MULTILINE))
    named = {name for name in families if not name.endswith("_created")}
    assert len(named) > 5
    text = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    assert {name for name in named if f"`{name}`" not in text} == set()


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

"""The rules of the house that a tool or a look at the code can hold."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.catalog.runtimes import RUNTIMES
from app.tables import metadata

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "workers", "migrations", "demo", "benchmarks", "scripts", "tests")
MAX_LINES = 400
GENERATED = ROOT / "migrations/versions"  # revisions are long, and nobody reads them top to bottom
WALL_CLOCKS = {  # who asks the host what time it is, and why neither the database's clock nor a monotonic one will do
    "app/auth/service.py": "whether a date that an administrator gives is over, before it is stored",
    "app/auth/usage.py": "which month is asked for",
    "app/commands/admin.py": "a date some days from now, as the administrator at this machine counts",
    "app/http/rates.py": "Redis counts in windows of the wall clock",
    "app/signing/keys.py": "dates for people, and which key is the newest",
    "app/storage/disk.py": "files carry the times of their host",
    "app/webhooks/sender.py": "receivers hold the time of a signature against their clocks",
    "workers/benchmarking/job.py": "a date for people",
    "workers/bundle/package.py": "a date for people",
    "workers/profiling/job.py": "a date for people",
    "workers/profiling/peaks_torch.py": "a date for people",
    "workers/training/progress.py": "TensorBoard shows when a number was taken",
}
INSTALLATION_WIDE = {"workers", "device_leases", "tree_files", "pauses"}  # shared by every project
HEAVY = ("workers", "numpy", "onnx", "onnxruntime", "torch")


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def commits(path: Path) -> Iterator[int]:
    """The lines that commit something else than a blob that is being written (`app/storage`)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="commit", value=value)):
                if not ast.unparse(value).endswith(("writer", "partial")):
                    yield node.lineno


def test_import_rules() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


def test_import_rules_know_every_runtime() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = next(
        one["forbidden_modules"] for one in contracts if one["source_modules"] == ["workers.measure"]
    )
    assert set(forbidden) == {f"workers.runtimes.{name.replace('-', '_')}" for name in RUNTIMES}


@pytest.mark.parametrize(
    "module", ["app.main", "app.cli", "app.client", "app.migrate", "app.queue", "migrations"]
)
def test_the_service_starts_without_heavy_packages(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_a_heavy_package_would_be_seen() -> None:
    script = (
        f"import sys, workers.model_handle, onnx; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "workers" in loaded.stdout
    assert "onnx" in loaded.stdout


@pytest.mark.parametrize("module", ["workers", "workers.worker", "workers.celery_app", "workers.supervisor"])
def test_a_worker_opens_no_model_itself(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY[1:]!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["workers.child", "workers.pipeline", "workers.inspect", "workers.measure.launch"]
)
def test_a_child_loads_neither_database_nor_broker(module: str) -> None:
    """It has no use for them, they would be a way out of its sandbox, and every launch would wait for their imports."""
    script = f"import sys, {module}; print([name for name in ('sqlalchemy', 'celery', 'redis') if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_only_one_file_commits() -> None:
    committing = {str(path.relative_to(ROOT)) for path in sources("app", "workers") for _ in commits(path)}
    assert committing == {"app/db.py"}


def test_files_are_rooms_and_not_houses() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources(*PACKAGES)
        if not path.is_relative_to(GENERATED)
        and (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_no_file_has_a_name_that_says_nothing() -> None:
    named = [
        path for path in sources(*PACKAGES) if path.name in {"models.py", "utils.py", "helpers.py", "misc.py"}
    ]
    assert named == []


def test_every_row_belongs_to_a_project() -> None:
    owned = {name for name, table in metadata.tables.items() if "project_id" in table.columns}
    assert set(metadata.tables) - owned == INSTALLATION_WIDE | {"projects"}
    for name in owned:
        column = metadata.tables[name].columns["project_id"]
        assert not column.nullable, name
        assert {key.target_fullname for key in column.foreign_keys} == {"projects.id"}, name


def test_every_function_that_others_may_call_says_what_it_does() -> None:
    silent = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources("app", "workers")
        for node in _public(ast.parse(path.read_text(encoding="utf-8")))
        if not ast.get_docstring(node)
    ]
    assert silent == []


def _is_operator(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether it is what an operator of a standard does, by its name: `@operator("Add")`, `@layer("Conv")`. The standard describes it."""
    return any(
        isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id in ("operator", "layer")
        for one in node.decorator_list
    )


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not _is_operator(node)
        ):
            yield node


def test_what_waits_goes_by_a_clock_that_nobody_sets() -> None:
    wall = re.compile(r"\btime\.time(_ns)?\(|\b(datetime|date)\.(now|utcnow|today)\(")
    found = {
        str(path.relative_to(ROOT))
        for path in sources("app", "workers")
        if wall.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(WALL_CLOCKS)


def test_nothing_is_left_to_do_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" + "XX")
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in sources(*PACKAGES)
        for mark in marks
        if mark in path.read_text(encoding="utf-8")
    ]
    assert found == []

"""Migrations add: the version before one serves on the database that it made (docs/operations.md)."""

import ast
from pathlib import Path

import pytest

VERSIONS = Path(__file__).resolve().parents[2] / "migrations" / "versions"
FIRST = "0003"
ESCAPE = "NOT_ADDITIVE"
ADDING = {"create_table", "create_index", "add_column", "batch_alter_table", "bulk_insert", "f"}
REVISIONS = sorted(path for path in VERSIONS.glob("[0-9]*.py") if path.name >= FIRST)


def faults(source: str) -> list[str]:
    """What an upgrade does that the version before would not survive, as `line: what`; nothing, where it says why."""
    tree = ast.parse(source)
    if any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ESCAPE for node in tree.body):
        return []
    (upgrade,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
    found = []
    for call in (node for node in ast.walk(upgrade) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Attribute(value=ast.Name(id="op" | "batch_op"), attr=name):
                if name not in ADDING:
                    found.append(f"{call.lineno}: {name}")
                elif name == "add_column" and not any(_harmless(column) for column in ast.walk(call)):
                    found.append(f"{call.lineno}: add_column that older versions leave empty")
                elif name == "create_index" and _says(call, "unique", True):
                    found.append(f"{call.lineno}: create_index that refuses rows")
    return found


def _harmless(node: ast.AST) -> bool:
    is_column = isinstance(node, ast.Call) and ast.unparse(node.func) == "sa.Column"
    return is_column and (
        _says(node, "nullable", True) or any(each.arg == "server_default" for each in node.keywords)
    )


def _says(call: ast.Call, keyword: str, value: bool) -> bool:
    return any(each.arg == keyword and ast.unparse(each.value) == str(value) for each in call.keywords)


@pytest.mark.parametrize("path", REVISIONS, ids=lambda path: path.stem)
def test_upgrades_only_add(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("op.drop_table('jobs')", "drop_table"),
        ("op.rename_table('jobs', 'tasks')", "rename_table"),
        ("op.execute('DELETE FROM jobs')", "execute"),
        ("with op.batch_alter_table('jobs') as batch_op: batch_op.drop_column('name')", "drop_column"),
        ("with op.batch_alter_table('jobs') as batch_op: batch_op.alter_column('name', nullable=False)", "alter_column"),
        ("op.add_column('jobs', sa.Column('n', sa.Integer(), nullable=False))", "add_column that older versions leave empty"),
        ("op.create_index('ix', 'jobs', ['name'], unique=True)", "create_index that refuses rows"),
        ("op.create_foreign_key('fk', 'jobs', 'models', ['subject'], ['id'])", "create_foreign_key"),
    ],
)  # fmt: skip
def test_one_that_takes_away_would_be_found(statement: str, fault: str) -> None:
    source = f"def upgrade() -> None:\n    {statement}\n"
    assert faults(source) == [f"2: {fault}"]
    assert faults(f"{ESCAPE} = 'every process must be stopped first: …'\n{source}") == []


def test_one_that_adds_passes() -> None:
    added = "op.add_column('jobs', sa.Column('n', sa.Integer(), nullable=False, server_default='0'))"
    assert faults(f"def upgrade() -> None:\n    {added}\n    op.create_table('t')\n") == []

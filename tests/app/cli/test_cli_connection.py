"""Where the client finds the service, and to whom it gives which key."""

import stat
from pathlib import Path

import pytest

from app.connection import Connection, NoConnection, find_connection, write_connection


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BURNISH_URL", raising=False)
    monkeypatch.delenv("BURNISH_API_KEY", raising=False)
    return tmp_path


def test_the_file_is_for_its_owner_alone(home: Path) -> None:
    path = write_connection(Connection("http://127.0.0.1:1", "one"))
    assert path == home / "burnish" / "connection.json"
    write_connection(Connection("http://127.0.0.1:2", "two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["connection.json"]
    assert find_connection() == Connection("http://127.0.0.1:2", "two")


def test_arguments_before_environment_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_connection(Connection("http://file", "file"))
    monkeypatch.setenv("BURNISH_URL", "http://environment/")
    monkeypatch.setenv("BURNISH_API_KEY", "environment")
    assert find_connection() == Connection("http://environment", "environment")
    assert find_connection("http://argument") == Connection("http://argument", "environment")
    assert find_connection("http://argument", "argument") == Connection("http://argument", "argument")


def test_the_files_key_is_not_given_to_another_service(monkeypatch: pytest.MonkeyPatch) -> None:
    write_connection(Connection("http://file", "secret"))
    assert find_connection("http://file/") == Connection("http://file", "secret")
    with pytest.raises(NoConnection, match="no key for http://elsewhere"):
        find_connection("http://elsewhere")


def test_nothing_known() -> None:
    with pytest.raises(NoConnection, match="burnish up"):
        find_connection()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "http://x"}'])
def test_a_broken_file_is_named(text: str, home: Path) -> None:
    (home / "burnish").mkdir()
    (home / "burnish" / "connection.json").write_text(text)
    with pytest.raises(NoConnection, match=r"connection\.json cannot be read"):
        find_connection()

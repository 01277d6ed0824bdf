"""`GET /v1/signing-keys`: what a client verifies bundles with."""

from fastapi.testclient import TestClient

from app.config import get_settings
from app.signing import keys
from app.signing.signatures import read_public_keys, sign, verify
from tests.app.api.conftest import api_sqlite

__all__ = ["api_sqlite"]


def test_without_keys_the_list_is_empty(api_sqlite: TestClient) -> None:
    assert api_sqlite.get("/v1/signing-keys").json() == {"items": [], "next_cursor": None}


def test_a_client_verifies_with_what_it_is_told(api_sqlite: TestClient) -> None:
    folder = get_settings().signing_path
    old, new = keys.create(folder), keys.create(folder)
    by_old = sign(keys._private(folder / f"{old.id}.pem"), b"{}")
    keys.retire(folder, old.id)
    private = keys.current(folder)
    assert private is not None

    told = api_sqlite.get("/v1/signing-keys").json()["items"]
    assert [(one["id"], one["in_use"], one["retired_at"] is None) for one in told] == [
        (old.id, False, False),
        (new.id, True, True),
    ]
    assert all(one["created_at"] for one in told)
    trusted = read_public_keys("".join(one["public_key"] for one in told).encode())
    assert verify(b"{}", by_old.encode(), trusted).trusted
    assert verify(b"{}", sign(private, b"{}").encode(), trusted).trusted
    assert "PRIVATE" not in str(told)


def test_notes_alone_are_enough(api_sqlite: TestClient) -> None:
    folder = get_settings().signing_path
    key = keys.create(folder)
    (folder / f"{key.id}.pem").unlink()
    (told,) = api_sqlite.get("/v1/signing-keys").json()["items"]
    assert (told["id"], told["in_use"]) == (key.id, True)


def test_a_note_that_cannot_be_read_is_named(api_sqlite: TestClient) -> None:
    folder = get_settings().signing_path
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("nonsense")
    answer = api_sqlite.get("/v1/signing-keys")
    assert answer.status_code == 503
    assert "a.json" in answer.json()["detail"]

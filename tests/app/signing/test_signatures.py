"""Signatures over manifests, and files of keys."""

import base64
import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from app.signing import keys
from app.signing.signatures import BadKey, BadSignature, key_id, pem, raw, read_public_keys, sign, verify

MANIFEST = b'{"schema": 1}\n'
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = raw(PRIVATE.public_key())


def test_a_signature_holds_for_its_manifest_alone() -> None:
    made = sign(PRIVATE, MANIFEST).encode()
    assert verify(MANIFEST, made, []).trusted is False
    assert verify(MANIFEST, made, [bytes(32), PUBLIC]).trusted is True
    assert verify(MANIFEST, made, [PUBLIC]).key == key_id(PUBLIC)
    with pytest.raises(BadSignature, match="changed"):
        verify(MANIFEST + b" ", made, [PUBLIC])


def test_who_signs_in_anothers_name_is_not_trusted() -> None:
    stranger = Ed25519PrivateKey.generate()
    said = json.loads(sign(stranger, MANIFEST))
    said["key"] = key_id(PUBLIC)
    found = verify(MANIFEST, json.dumps(said).encode(), [PUBLIC])
    assert (found.trusted, found.key) == (False, key_id(raw(stranger.public_key())))
    said["public_key"] = base64.b64encode(PUBLIC).decode()
    with pytest.raises(BadSignature, match="changed"):
        verify(MANIFEST, json.dumps(said).encode(), [PUBLIC])


GOOD = json.loads(sign(PRIVATE, MANIFEST))


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 9000,
        b" " * 10_001,
        json.dumps({**GOOD, "algorithm": "none"}).encode(),
        json.dumps({**GOOD, "schema": 2}).encode(),
        json.dumps({**GOOD, "signature": ""}).encode(),
        json.dumps({**GOOD, "signature": 7}).encode(),
        json.dumps({**GOOD, "signature": "not base64!"}).encode(),
        json.dumps({**GOOD, "public_key": "AAAA"}).encode(),
        json.dumps({**GOOD, "public_key": base64.b64encode(bytes(32)).decode()}).encode(),
        json.dumps({key: value for key, value in GOOD.items() if key != "public_key"}).encode(),
    ],
    ids=lambda value: value[:12].decode("latin-1") + str(len(value)),
)
def test_files_that_are_no_signature(file: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(MANIFEST, file, [PUBLIC])


def test_a_file_of_public_keys() -> None:
    other = raw(Ed25519PrivateKey.generate().public_key())
    assert read_public_keys(f"# mine\n{pem(PUBLIC)}\n{pem(other)}".encode()) == [PUBLIC, other]


def _of_another_kind() -> bytes:
    public = generate_private_key(SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
        (PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
        (_of_another_kind(), "not of Ed25519"),
    ],
    ids=["empty", "damaged", "private", "another kind"],
)
def test_files_that_hold_no_public_key(file: bytes, why: str) -> None:
    with pytest.raises(BadKey, match=why):
        read_public_keys(file)


def test_other_tools_verify_it(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl")
    (tmp_path / "key.pem").write_text(pem(PUBLIC))
    (tmp_path / "manifest.json").write_bytes(MANIFEST)
    (tmp_path / "sig").write_bytes(base64.b64decode(GOOD["signature"]))
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "manifest.json"]
    done = subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, text=True)
    assert "Verified Successfully" in done.stdout, done.stderr


def test_the_newest_key_signs_until_it_is_retired(tmp_path: Path) -> None:
    folder = tmp_path / "signing"
    assert keys.list_keys(folder) == []
    assert keys.current(folder) is None
    first, second = keys.create(folder), keys.create(folder)
    assert [key.id for key in keys.list_keys(folder)] == [first.id, second.id]
    assert _signs(folder) == second.id
    assert keys.retire(folder, second.id).retired_at is not None
    assert _signs(folder) == first.id
    keys.retire(folder, first.id)
    assert keys.current(folder) is None
    assert [(key.id, key.private) for key in keys.list_keys(folder)] == [
        (first.id, False),
        (second.id, False),
    ]
    assert not list(folder.glob("*.pem"))
    with pytest.raises(BadKey, match="no signing key"):
        keys.retire(folder, "sgn_unknown")


def test_nobody_else_reads_a_private_key(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "signing")
    assert stat.S_IMODE((tmp_path / "signing").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "signing" / f"{key.id}.pem").stat().st_mode) == 0o600


def test_a_private_key_alone_is_enough(tmp_path: Path) -> None:
    private = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "mounted-secret.pem").write_bytes(private)
    assert [(key.id, key.signs) for key in keys.list_keys(tmp_path)] == [(key_id(PUBLIC), True)]
    assert _signs(tmp_path) == key_id(PUBLIC)
    keys.retire(tmp_path, key_id(PUBLIC))
    assert keys.current(tmp_path) is None


def test_a_retired_key_that_came_back_does_not_sign(tmp_path: Path) -> None:
    key = keys.create(tmp_path)
    private = (tmp_path / f"{key.id}.pem").read_bytes()
    keys.retire(tmp_path, key.id)
    (tmp_path / f"{key.id}.pem").write_bytes(private)
    assert keys.current(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.pem", b"nonsense", "a.pem cannot be read"),
        ("a.pem", _of_another_kind(), "a.pem cannot be read"),
        ("a.json", b"{}", "a.json says nothing"),
        ("a.json", b'{"id": "sgn_x", "public_key": "AAAA", "created_at": null}', "a.json says nothing"),
    ],
)
def test_files_that_are_no_keys_are_named(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadKey, match=why):
        keys.current(tmp_path)


def _signs(folder: Path) -> Any:
    private = keys.current(folder)
    return None if private is None else key_id(raw(private.public_key()))

"""The keys that bundles are signed with: files in a directory that workers read (`BURNISH_SIGNING_DIR`).

`ID.pem` is a private key (PKCS #8, mode 0600), `ID.json` what is known of it: {id, public_key, created_at, retired_at}. A
private key alone is enough, as a secret that is mounted is; its public half and its id follow from it.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from app.connection import write_private
from app.signing.signatures import BadKey, key_id, raw


@dataclass(frozen=True)
class SigningKey:
    """What is known of a key. `private`: whether its private half is here."""

    id: str
    public: bytes
    created_at: str | None  # RFC 3339, UTC; None: nobody noted it
    retired_at: str | None
    private: bool

    @property
    def signs(self) -> bool:
        """Whether it could sign a bundle."""
        return self.private and self.retired_at is None


def create(folder: Path) -> SigningKey:
    """A new key, which signs from now on. Others stay until they are retired."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Ed25519PrivateKey.generate()
    public = raw(made.public_key())
    key = SigningKey(key_id(public), public, _now(), None, True)
    text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    write_private(folder / f"{key.id}.pem", text)
    _note(folder, key)
    return key


def noted_keys(folder: Path) -> list[SigningKey]:
    """Every key that is noted, the oldest first, without a look at private halves: `private` is False of all.

    Raises:
        BadKey: a note is not what its name says; the message names it.
    """
    return _ordered(map(_noted, sorted(folder.glob("*.json"))))


def list_keys(folder: Path) -> list[SigningKey]:
    """Every key of the directory, the oldest first; [] where there is no directory.

    Raises:
        BadKey: a file is not what its name says; the message names it.
    """
    if not folder.is_dir():
        return []
    found = {key.id: key for key in noted_keys(folder)}
    for path in sorted(folder.glob("*.pem")):
        public = raw(_private(path).public_key())
        id_ = key_id(public)
        known = found.get(id_, SigningKey(id_, public, None, None, True))
        found[id_] = SigningKey(id_, public, known.created_at, known.retired_at, True)
    return _ordered(found.values())


def retire(folder: Path, id_: str) -> SigningKey:
    """Delete a key's private half: it signs no more. What it signed holds for whoever trusts its public half.

    Raises:
        BadKey: there is no such key.
    """
    known = next((key for key in list_keys(folder) if key.id == id_), None)
    if known is None:
        raise BadKey(f"there is no signing key {id_}")
    retired = SigningKey(id_, known.public, known.created_at, known.retired_at or _now(), False)
    _note(folder, retired)  # first: a key whose private half cannot be deleted signs no more either
    for path in sorted(folder.glob("*.pem")):
        if key_id(raw(_private(path).public_key())) == id_:
            path.unlink()
    return retired


def current(folder: Path) -> Ed25519PrivateKey | None:
    """The key that bundles are signed with now: the newest that is not retired; None: there is none.

    Raises:
        BadKey: a file is not what its name says.
    """
    signing = [key for key in list_keys(folder) if key.signs]
    if not signing:
        return None
    wanted = signing[-1].id
    keys = (_private(path) for path in sorted(folder.glob("*.pem")))
    return next(key for key in keys if key_id(raw(key.public_key())) == wanted)


def _ordered(keys: Iterable[SigningKey]) -> list[SigningKey]:
    return sorted(keys, key=lambda key: (key.created_at or "", key.id))


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        raise BadKey(
            f"{path.name} cannot be read as a private key: {error.__class__.__name__}: {error}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path.name} is no key of Ed25519")
    return key


def _note(folder: Path, key: SigningKey) -> None:
    said = {
        "id": key.id,
        "public_key": base64.b64encode(key.public).decode(),
        "created_at": key.created_at,
        "retired_at": key.retired_at,
    }
    write_private(folder / f"{key.id}.json", json.dumps(said, indent=2) + "\n")


def _noted(path: Path) -> SigningKey:
    try:
        said = json.loads(path.read_bytes())
        public = base64.b64decode(said["public_key"], validate=True)
        if len(public) != 32 or said["id"] != key_id(public):
            raise ValueError("its id is not that of its public key")
        return SigningKey(said["id"], public, said["created_at"], said["retired_at"], False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BadKey(f"{path.name} says nothing of a key: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")

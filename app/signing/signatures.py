"""A bundle's signature: Ed25519 (RFC 8032) over the bytes of `manifest.json`, in a JSON file beside it. Pure.

The manifest names the digest of every other file, so that one signature stands for all of them. Nothing but the manifest's
own bytes is signed: any tool that knows Ed25519 can verify it.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

ALGORITHM = "ed25519"
SCHEMA = 1
MOST_BYTES = 10_000  # of a signature's file
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


class BadSignature(Exception):
    """A signature that does not hold, or cannot be read; the message says which."""


class BadKey(Exception):
    """A key that cannot be read, or is of another kind; the message says why."""


@dataclass(frozen=True)
class Signed:
    """A signature that holds: the key that made it, and whether that is one of those trusted."""

    key: str
    trusted: bool


def sign(private: Ed25519PrivateKey, manifest: bytes) -> str:
    """The signature's file for a manifest, as it lies on disk."""
    public = raw(private.public_key())
    said = {
        "schema": SCHEMA,
        "algorithm": ALGORITHM,
        "key": key_id(public),
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(private.sign(manifest)).decode(),
    }
    return json.dumps(said, indent=2) + "\n"


def verify(manifest: bytes, signature: bytes, trusted: Iterable[bytes]) -> Signed:
    """Hold a signature's file against a manifest; `trusted` are public keys of 32 bytes.

    Raises:
        BadSignature: it does not hold, or cannot be read.
    """
    public, made = _read(signature)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(made, manifest)
    except InvalidSignature:
        raise BadSignature("the signature does not fit the manifest: one of them was changed") from None
    except ValueError as error:
        raise BadSignature(f"its public key cannot be read: {error}") from error
    return Signed(key_id(public), public in set(trusted))


def key_id(public: bytes) -> str:
    """A key's name: what its 32 public bytes hash to."""
    return f"sgn_{hashlib.sha256(public).hexdigest()[:24]}"


def raw(public: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def pem(public: bytes) -> str:
    """A public key in PEM (RFC 8410), as other tools read it."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public_keys(text: bytes) -> list[bytes]:
    """The public keys of a file of PEM blocks, 32 bytes each; what stands between the blocks is passed over.

    Raises:
        BadKey: there is none, or one is of another kind; a private key is named as such.
    """
    found = []
    for block in _BLOCK.finditer(text):
        if b"PRIVATE" in block[1]:
            raise BadKey("this is a private key: give the public one (`burnish keys signing export`)")
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadKey(f"a key cannot be read: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadKey("a key is not of Ed25519")
        found.append(raw(key))
    if not found:
        raise BadKey("there is no public key in PEM in it")
    return found


def _read(signature: bytes) -> tuple[bytes, bytes]:
    if len(signature) > MOST_BYTES:
        raise BadSignature(f"the signature's file has more than {MOST_BYTES} bytes")
    try:
        said: Any = json.loads(signature)
        if said["algorithm"] != ALGORITHM or said["schema"] != SCHEMA:
            raise BadSignature(f"it is a signature of a kind that is not known: {said['algorithm']!s:.50}")
        public = base64.b64decode(said["public_key"], validate=True)
        made = base64.b64decode(said["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise BadSignature(f"the signature's file cannot be read: {type(error).__name__}") from error
    return public, made

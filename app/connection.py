"""Where the client finds the service, and with which key: what it is told, the environment, or what `burnish up` left."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

URL_VARIABLE = "BURNISH_URL"
KEY_VARIABLE = "BURNISH_API_KEY"


class NoConnection(Exception):
    """Nothing says where the service is, or which key opens it; the message says what to do."""


@dataclass(frozen=True)
class Connection:
    """An address and a key."""

    url: str
    api_key: str


def connection_file() -> Path:
    """The file that the last `burnish up` of this user wrote (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "burnish" / "connection.json"


def write_connection(connection: Connection, path: Path | None = None) -> Path:
    """Write the file for this user's eyes alone (mode 0600), whole or not at all."""
    path = path or connection_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, json.dumps({"url": connection.url, "api_key": connection.api_key}, indent=2) + "\n")
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that holds a secret: nobody else can read it at any moment, and it is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def find_connection(url: str | None = None, api_key: str | None = None) -> Connection:
    """The connection to use: arguments before the environment, the environment before the file.

    The file's key goes to the file's address alone: another service must not learn it.

    Raises:
        NoConnection: no address or no key was found.
    """
    url = url or os.environ.get(URL_VARIABLE) or None
    api_key = api_key or os.environ.get(KEY_VARIABLE) or None
    stored = _read() if url is None or api_key is None else None
    if url is None:
        if stored is None:
            raise NoConnection(
                f"no service is known: start one with `burnish up`, or give --url or {URL_VARIABLE}"
            )
        url = stored.url
    url = url.rstrip("/")
    if api_key is None and stored is not None and stored.url.rstrip("/") == url:
        api_key = stored.api_key
    if api_key is None:
        raise NoConnection(f"no key for {url} is known: set {KEY_VARIABLE} (`burnish keys create` makes one)")
    return Connection(url, api_key)


def _read() -> Connection | None:
    path = connection_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Connection(str(content["url"]), str(content["api_key"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NoConnection(
            f"{path} cannot be read ({error}): delete it, or run `burnish up` again"
        ) from error

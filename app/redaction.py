"""What must not be read in a log or an answer: secrets, and where files lie on the machine."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from app.config import Settings, get_settings

HIDDEN = "[hidden]"
SHORTEST_SECRET = 6  # a shorter password would blot out words that are none

_BY_FORM = re.compile(
    r"(?P<mark>brn_[0-9a-z]+_|whsec_|(?i:bearer\s+|basic\s+)|X-Amz-(?:Signature|Credential|Security-Token)=)"
    r"[A-Za-z0-9+/=_.%~-]{8,}"
    r"|(?P<scheme>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+(?=@)"
)


class Redactor:
    """Hides what looks like a secret, the secrets of the settings wherever they stand, and the folders of the installation."""

    def __init__(self, settings: Settings):
        self._secrets = _any_of(_passwords(settings))
        self._names = _folders(settings)
        self._places = re.compile(rf"(?<![\w.-])(?:{_longest_first(self._names)})(?![\w.-])")

    def without_secrets(self, text: str) -> str:
        """The text with keys, webhook secrets, signatures and passwords hidden."""
        text = _BY_FORM.sub(lambda found: f"{found['mark'] or found['scheme']}{HIDDEN}", text)
        return self._secrets.sub(HIDDEN, text) if self._secrets is not None else text

    def without_places(self, text: str) -> str:
        """The text with folders named by what they are: `<data>/blobs` for one."""
        if "/" not in text:
            return text
        return self._places.sub(lambda found: self._names[found.group()], text)


@lru_cache(maxsize=1)
def get_redactor() -> Redactor:
    """The one of this process's settings."""
    return Redactor(get_settings())


def hide_in_log(_: Any, __: str, line: str) -> str:
    """The last of structlog's processors: the rendered line without secrets."""
    return get_redactor().without_secrets(line)


def showable(text: str) -> str:
    """The text as users may see it: neither secrets nor places."""
    redactor = get_redactor()
    return redactor.without_places(redactor.without_secrets(text))


def _passwords(settings: Settings) -> Iterator[str]:
    for url in (settings.resolved_database_url, settings.redis_url, settings.s3_endpoint):
        if password := urlsplit(url).password:
            yield password
            yield unquote(password)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        yield os.environ.get(name, "")


def _folders(settings: Settings) -> dict[str, str]:
    named = {
        Path(sys.base_prefix): "<python>",
        Path(sys.prefix): "<python>",
        Path(__file__).parent.parent: "<burnish>",
        settings.data_dir: "<data>",
        settings.scratch_path: "<scratch>",
    }
    return {str(form): name for path, name in named.items() for form in (path.absolute(), path.resolve())}


def _any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    long_enough = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
    return re.compile(_longest_first(long_enough)) if long_enough else None


def _longest_first(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))

"""JSON bodies as RFC 8259 and I-JSON (RFC 7493) have them: UTF-8, no NaN, no key twice, no text that is none."""

import json
import math
from typing import Any, NoReturn

from fastapi import Request


class StrictRequest(Request):
    """A request whose JSON has one meaning, and fits both databases."""

    async def json(self) -> Any:
        """The body's JSON.

        Raises:
            json.JSONDecodeError: it is none, or not strictly, or a text in it holds NUL or a lone surrogate.
        """
        try:
            text = (await self.body()).decode()
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("not UTF-8", "", error.start) from error
        try:
            body = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
        except RecursionError as error:
            raise json.JSONDecodeError("nested too deeply", "", 0) from error
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # a key twice, NaN, an integer of thousands of digits
            raise json.JSONDecodeError(str(error)[:200], "", 0) from error
        if not is_storable(body):
            raise json.JSONDecodeError(
                "a text holds NUL or a lone surrogate, or a number is not finite", "", 0
            )
        return body


def is_storable(body: Any) -> bool:
    """Whether both databases take every text and number in it. A loop: a body may be nested deeper than the stack."""
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, str) and (
            "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
        ):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")

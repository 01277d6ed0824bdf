"""Protocol Buffers' text format, as far as a configuration needs it.

Source: https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]  # field -> scalar, `Enum`, message, or a list of these


class Enum(str):
    """A value of an enumeration: written without quotes."""


def text_of(message: Mapping[str, Any], indent: int = 0) -> str:
    """A message, a line a field; an empty list is left out, an empty message is not."""
    lines = []
    for name, value in message.items():
        repeated = isinstance(value, Sequence) and not isinstance(value, str)
        if repeated and value and not isinstance(value[0], Mapping):
            lines.append(f"{' ' * indent}{name}: [ {', '.join(_scalar(one) for one in value)} ]\n")
            continue
        for one in value if repeated else [value]:
            if isinstance(one, Mapping):
                inner = text_of(one, indent + 2)
                lines.append(f"{' ' * indent}{name} {{\n{inner}{' ' * indent}}}\n")
            else:
                lines.append(f"{' ' * indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum | int):
        return str(value)
    return quoted(str(value))


def quoted(text: str) -> str:
    """A string literal: whatever is not plain ASCII is written as octal bytes of UTF-8."""
    plain = {byte: chr(byte) for byte in range(32, 127) if chr(byte) not in "\"\\'"}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode()) + '"'

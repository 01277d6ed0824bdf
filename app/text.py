"""Text that comes from uploads and goes to terminals, logs and answers."""

import unicodedata

# control characters, halves of pairs, line and paragraph separators
UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
# what turns the direction of text, so that it reads as something else (Unicode's bidirectional controls)
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST = 2000


def is_plain(text: str) -> bool:
    """Whether every character can be shown as it is."""
    if text.isascii():
        return text.isprintable()
    return not any(_strange(letter) for letter in text)


def plain(text: str, most: int = LONGEST) -> str:
    """The text as it may be shown: strange characters but newlines escaped (`\\x1b`), the middle cut out beyond `most`."""
    text = _cut(text, most)
    if is_plain(text):
        return text
    shown = (ascii(letter)[1:-1] if letter != "\n" and _strange(letter) else letter for letter in text)
    return _cut("".join(shown), most)


def first_line(text: str) -> str:
    """The first line that says something, without the space around it; empty where none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def fault(message: str) -> str:
    """What pydantic says of a field; of a validator of ours its own sentence alone."""
    return message.removeprefix("Value error, ")


def _cut(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _strange(letter: str) -> bool:
    return letter in TURNING or unicodedata.category(letter) in UNPRINTABLE

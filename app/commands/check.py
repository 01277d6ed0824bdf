"""`burnish check ENGINE_DIR`: is this engine whole, valid on this machine, and still what it promised to be?"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.artifacts.envelope import Facts, conditions_of, hold
from app.artifacts.machine import this_machine
from app.commands import bundles
from app.commands.common import DONE, FAILED, JsonOption, leave, print_json, shown, stdout
from app.commands.signing import read_trusted, trusted_file

RUN_SECONDS = 600
LISTED = 10
SLOW = 4  # exit status


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` None: it differs, which may or may not matter."""

    what: str
    ok: bool | None
    detail: str
    slow: bool = False


def check(
    folder: Annotated[
        Path, typer.Argument(metavar="ENGINE_DIR", exists=True, file_okay=False, help="An unpacked bundle.")
    ],
    trust: Annotated[
        list[Path],
        typer.Option(
            "--trust",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Public keys in PEM: the bundle must be signed by one of them. Repeat. Default: those of `burnish keys signing trust`.",
        ),
    ] = [],  # noqa: B006 - typer reads the default
    timed: Annotated[
        bool,
        typer.Option(
            "--time", help="Say how long a run takes here. Engines that were never measured are timed anyway."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check an engine on this machine: who signed it, its files, where it is valid, and its outputs. No service is needed.

    Nothing of the bundle is run before signature and files were found to be right. `run.py` and compiled engines are code:
    check bundles of strangers in a place that can be thrown away.

    Exit status: 0 yes, it is valid here; 1 no; 2 wrong usage; 4 it is valid, but slower than it was measured to be.
    """
    manifest = bundles.read_manifest(folder)
    files = trust or [path for path in (trusted_file(),) if path.exists()]
    findings = [signature(folder, read_trusted(files)), *look_at(folder, manifest)]
    if all(finding.ok is not False for finding in findings):
        findings += run_here(folder, manifest, timed=timed or measured(manifest) is None)
    verdict = verdict_of(findings)
    rebuild = None if verdict == "yes" else rebuild_command(manifest)
    if as_json:
        print_json(
            {
                "ok": verdict != "no",
                "verdict": verdict,
                "findings": [asdict(finding) for finding in findings],
                "rebuild": rebuild,
            }
        )
    else:
        show(findings, verdict, rebuild)
    leave({"yes": DONE, "slow": SLOW, "no": FAILED}[verdict])


def look_at(folder: Path, manifest: dict[str, Any]) -> list[Finding]:
    """Everything that can be said of the bundle here without running anything of it."""
    wrong = bundles.damaged_files(folder, manifest)
    wrong += [f"{name} is not among the manifest's files" for name in bundles.unpromised(manifest)]
    strange = bundles.unlisted_files(folder, manifest)
    # what lies beside an engine may be read with it: external weights, a compiled network
    wrong += [f"{name} was added" for name in strange if name.startswith(f"{bundles.ENGINE_FOLDER}/")]
    text = "; ".join(wrong) or f"{len(manifest['files'])} files are as they were"
    findings = [Finding("files", not wrong, text)]
    if others := [name for name in strange if not name.startswith(f"{bundles.ENGINE_FOLDER}/")]:
        listed = ", ".join(others[:LISTED]) + (", …" if len(others) > LISTED else "")
        findings.append(Finding("other files", None, f"not the bundle's, and not checked: {listed}"))
    return [*findings, *validity(manifest)]


def signature(folder: Path, trusted: list[bytes]) -> Finding:
    """Whether the manifest is signed, by whom, and whether that is one of the public keys that are trusted."""
    from app.signing.signatures import BadSignature, key_id, verify

    wanted = f"; wanted is one of {', '.join(map(key_id, trusted))}" if trusted else ""
    path = folder / bundles.SIGNATURE
    if not path.is_file():
        said = "there is none: nothing says who made this bundle"
        return Finding("signature", False if trusted else None, said + wanted)
    try:
        signed = verify((folder / bundles.MANIFEST).read_bytes(), path.read_bytes(), trusted)
    except BadSignature as error:
        return Finding("signature", False, str(error))
    if signed.trusted:
        return Finding("signature", True, f"by {signed.key}, which is trusted")
    if trusted:
        return Finding("signature", False, f"by {signed.key}{wanted}")
    said = f"by {signed.key}, which nothing here vouches for: give its public key by --trust"
    return Finding("signature", None, said)


def verdict_of(findings: list[Finding]) -> str:
    """`no`, `slow` or `yes`. What only a run can tell was told by the outputs, which are among the findings."""
    if any(finding.ok is False for finding in findings):
        return "no"
    return "slow" if any(finding.slow for finding in findings) else "yes"


def show(findings: list[Finding], verdict: str, rebuild: str | None) -> None:
    """The findings, the verdict, and what to do about it, for people."""
    for finding in findings:
        mark = {True: "[green]ok  [/]", None: "[yellow]note[/]", False: "[bold red]FAIL[/]"}[finding.ok]
        mark = "[yellow]slow[/]" if finding.slow else mark
        stdout().print(f"{mark}  {escape(finding.what)}: {escape(shown(finding.detail))}", soft_wrap=True)
    said = {
        "yes": "[green]yes[/]: the engine is valid on this machine",
        "slow": "[yellow]slow[/]: the engine is valid on this machine, and slower than it was measured to be",
        "no": "[bold red]no[/]: the engine is not valid on this machine",
    }
    stdout().print(said[verdict], soft_wrap=True)
    if rebuild is not None:
        command = escape(shown(rebuild))
        stdout().print(f"build it anew: [bold]{command}[/] (--target: for another one)", soft_wrap=True)


def validity(manifest: Mapping[str, Any], facts: Facts | None = None) -> list[Finding]:
    """Hold the manifest's conditions against a machine, this one where no `facts` are given."""
    try:
        conditions = conditions_of(manifest.get("validity") or {})
    except ValueError as error:
        return [Finding("validity", None, f"{error}: a newer burnish may know it")]
    known = this_machine(conditions) if facts is None else facts
    marks = {"yes": True, "no": False, "slow": None, "unproved": None}
    return [
        Finding(held.condition.what, marks[held.verdict], held.text, held.verdict == "slow")
        for held in hold(conditions, known)
    ]


def rebuild_command(manifest: Mapping[str, Any]) -> str | None:
    """The command that builds the engine anew from the optimized model that the service stores; None: no job is named."""
    job = manifest.get("job")
    return f"burnish rebuild {shlex.quote(job)} -o ENGINE_DIR" if isinstance(job, str) else None


def measured(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The latency that the engine was measured to have; None for one that could not run where it was built."""
    optimized = (manifest.get("result") or {}).get("optimized") or {}
    latency: Mapping[str, Any] | None = optimized.get("latency")
    return latency


def run_here(folder: Path, manifest: Mapping[str, Any], *, timed: bool) -> list[Finding]:
    """Run the bundle's own `run.py`, in a process of its own, and hear what it says: of the outputs, and of how long a run takes."""
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                str((folder / "run.py").resolve()),
                "--json",
                *(["--time"] if timed else []),
            ],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        return [Finding("outputs", False, f"run.py did not end within {RUN_SECONDS} s")]
    try:
        said = json.loads(done.stdout.strip().splitlines()[-1])
        lines = [_output_text(entry) for entry in said["outputs"]]
        taken = [_latency(said["latency"], manifest)] if "latency" in said else []
    except (ValueError, IndexError, KeyError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        return [Finding("outputs", False, f"run.py ended with status {done.returncode}, saying: {last[0]}")]
    return [Finding("outputs", done.returncode == 0, said.get("error") or "; ".join(lines)), *taken]


def _latency(here: Mapping[str, Any], manifest: Mapping[str, Any]) -> Finding:
    """What a run takes here, beside what was measured; no verdict, as nothing ran in turns with it."""
    text = f"a run on the sample inputs takes {here['p50_ms']:.3g} ms here (median of {here['runs']:d}, in one process)"
    if (before := measured(manifest)) is not None:
        text += f"; measured for its proof: {before['p50_ms']:.3g} ms at batch {before['batch']}"
    else:
        text += "; it was not measured before"
    return Finding("latency", None, text)


def _output_text(entry: Mapping[str, Any]) -> str:
    if entry["exact"]:
        return f"{entry['output']} identical"
    if entry["max_abs_error"] is None:
        return f"{entry['output']} differs in kind"
    return f"{entry['output']} differs by {entry['max_abs_error']:.3g}, {entry['atol']:.3g} allowed"

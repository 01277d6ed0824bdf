"""Writes a form that a job asked for: a zip of its own, with a signed manifest like the bundle's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.bundle.build import pack, seal
from workers.bundle.forms import docker, mlflow, triton

Writer = Callable[[Path, Path, dict[str, Any], str], None]
WRITERS: dict[str, Writer] = {"triton": triton.write, "docker": docker.write, "mlflow": mlflow.write}
SAID = (
    "schema", "created_at", "job", "model", "target", "signature", "validity", "requires", "licences", "versions",
)  # fmt: skip


def write_form(
    form: str,
    bundle: Path,
    manifest: dict[str, Any],
    scratch: Path,
    name: str,
    sign: Callable[[str], str | None],
) -> Path:
    """The zip of a form; `bundle` is the bundle's folder, `manifest` its manifest, `name` a file name without suffix.

    Raises:
        UnsupportedFormat: there is no such form of this engine; the text says why.
    """
    folder = scratch / f"form-{form}"
    folder.mkdir()
    WRITERS[form](folder, bundle, manifest, name)
    seal(folder, {"package": form, **{key: manifest[key] for key in SAID}}, sign)
    return pack(folder, scratch / f"{name}-{form}.zip")

"""What forms have in common: the bundle inside, and the packages that it needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.storage.disk import link_or_copy


def copy_bundle(bundle: Path, target: Path) -> None:
    """Lay a bundle's files out in another folder."""
    for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
        place = target / file.relative_to(bundle)
        place.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(file, place)


def requirements_text(manifest: Mapping[str, Any]) -> str:
    """`requirements.txt`: the versions that the engine was built and measured with. Local builds are not on public indexes."""
    pins = [f"{name}=={version.partition('+')[0]}" for name, version in manifest["requires"].items()]
    return "\n".join(sorted(pins)) + "\n"

"""The manifests of `deploy/`, as they stand."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES, KEDA, SYSTEMD = (ROOT / "deploy" / name for name in ("kubernetes", "keda", "systemd"))


def documents(folder: Path) -> list[dict[str, Any]]:
    """Every manifest of a folder but its kustomization."""
    return [
        document
        for path in sorted(folder.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def named(kind: str) -> dict[str, dict[str, Any]]:
    """The Kubernetes manifests of a kind, by name."""
    return {one["metadata"]["name"]: one for one in documents(KUBERNETES) if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each Deployment and CronJob, by name: {metadata, spec}."""
    jobs = {name: one["spec"]["jobTemplate"]["spec"] for name, one in named("CronJob").items()}
    return {
        name: spec["template"]
        for name, spec in ({n: one["spec"] for n, one in named("Deployment").items()} | jobs).items()
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container with its pod's name, those that run before it too."""
    for name, pod in pods().items():
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield name, container


def queues(name: str) -> set[str]:
    """The queues that a worker's Deployment serves."""
    command = pods()[name]["spec"]["containers"][0]["command"]
    return set(command[command.index("--queues") + 1].split(","))


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a systemd unit, whatever their section; a name may be there several times."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def commands_of(name: str) -> list[list[str]]:
    """What a unit runs, in words; the program without its folder."""
    lines = [*unit(name).get("ExecStartPre", []), *unit(name).get("ExecStart", [])]
    return [[Path(words[0]).name, *words[1:]] for words in map(shlex.split, lines)]

"""The Docker files cannot be built here: they are held to their schema, a linter, and to what they name."""

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.engine import make_url

from app.config import Settings
from app.main import create_app
from tests.deploy.commands import parse_command

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")
INSTRUCTION = re.compile(r"^([A-Z]+) +((?:.*\\\n)*.*)$", re.MULTILINE)
CONDITIONS = {"service_healthy", "service_started", "service_completed_successfully"}


def instructions(keyword: str) -> list[str]:
    """The arguments of each instruction of a kind in the Dockerfile, continuation lines joined."""
    return [rest.replace("\\\n", " ") for word, rest in INSTRUCTION.findall(DOCKERFILE) if word == keyword]


def stages() -> dict[str, str]:
    """Stage -> what it starts from."""
    return {rest.split()[2]: rest.split()[0] for rest in instructions("FROM")}


def example_environment() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def substituted(text: str) -> str:
    """Compose's `${NAME:-default}` and `${NAME:?message}`, a required variable given as `secret`."""
    return VARIABLE.sub(
        lambda found: (found[2] or "")[2:] if (found[2] or "").startswith(":-") else "secret", text
    )


def test_compose_file_fits_the_compose_specification() -> None:
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(ROOT / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_dockerfile_copies_what_exists_and_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    for copy in instructions("COPY"):
        words = copy.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages()
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert source.rstrip("/") in sent, f"{source} is not in .dockerignore's list"
    for name in sent:
        assert (ROOT / name).exists(), name


def test_dockerfile_names_stages_and_locks_that_exist() -> None:
    known: set[str] = set()
    for stage, origin in stages().items():
        assert origin in known or origin == "${PYTHON_IMAGE}", f"{stage} starts from {origin}"
        known.add(stage)
    assert {"api", "worker-cpu", "worker-gpu"} <= known
    for mounted in re.findall(r"--mount=\S*from=(\w+)", DOCKERFILE):
        assert mounted in known
    locks = set(re.findall(r"requirements/[\w-]+\.txt", DOCKERFILE))
    assert locks == {f"requirements/{name}.txt" for name in ("api", "worker", "worker-gpu", "zoo")}
    assert all((ROOT / lock).exists() for lock in locks)


@pytest.mark.parametrize("target", ["api", "worker-cpu", "worker-gpu", "worker-horovod"])
def test_images_do_not_run_as_root(target: str) -> None:
    lines = DOCKERFILE.splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    assert stages()[target] == "runtime"


def test_api_image_holds_no_worker_packages() -> None:
    names = {line.split("==")[0] for line in (ROOT / "requirements/api.txt").read_text().splitlines()}
    assert not names & {"torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy"}
    gpu = {line.split("==")[0] for line in (ROOT / "requirements/worker-gpu.txt").read_text().splitlines()}
    assert "onnxruntime-gpu" in gpu
    assert "onnxruntime" not in gpu


def test_pip_is_the_same_everywhere() -> None:
    pinned = re.search(r"PIP_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert pinned
    assert set(re.findall(r"pip==(\S+)", DOCKERFILE)) == {pinned[1]}


def test_settings_that_are_named_exist() -> None:
    known = {f"BURNISH_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bBURNISH_[A-Z_]+", DOCKERFILE + COMPOSE_TEXT))
    assert named
    assert named <= known


def test_settings_of_each_service_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in OURS.values():
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, substituted(value))
        settings = Settings()
        assert make_url(settings.resolved_database_url).password == "secret"
        assert make_url(settings.resolved_database_url).host in SERVICES
        assert settings.redis_url == "redis://:secret@redis:6379/0"
        assert settings.blobs_path == Path("/data/blobs")


def test_variables_are_in_the_example_and_secrets_have_no_default() -> None:
    used = dict(VARIABLE.findall(COMPOSE_TEXT))
    assert set(used) == set(example_environment())
    for name, value in example_environment().items():
        if "PASSWORD" in name:
            assert used[name].startswith(":?")
            assert value == ""
        else:
            assert used[name] == f":-{value}"
    assert not re.search(r"(?i)(password|secret|token)\S*[=:]\s*[a-z0-9]{4,}", DOCKERFILE)


def test_commands_exist_with_their_options() -> None:
    commands = [service["command"] for service in OURS.values()]
    commands += [yaml.safe_load(rest) for rest in instructions("CMD")]
    commands += [shlex.split(line) for line in re.findall(r"--rm \w+ (burnish .*)", COMPOSE_TEXT)]
    assert len(commands) == len(OURS) + 4 + 1
    for command in commands:
        parse_command(command)


@pytest.mark.parametrize(
    "words", [["burnish", "nonsense"], ["burnish", "serve", "--nonsense"], ["burnish", "keys", "create"]]
)
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"nonsense|Missing"):
        parse_command(words)


def test_health_checks_ask_routes_that_exist() -> None:
    checks = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)'", DOCKERFILE + COMPOSE_TEXT)
    assert len(checks) == 2
    for port, path in checks:
        assert port == instructions("EXPOSE")[0]
        assert path in create_app().openapi()["paths"]


def test_services_depend_on_services_that_can_meet_the_condition() -> None:
    for name, service in SERVICES.items():
        for needed, rule in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert rule["condition"] in CONDITIONS
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], f"{name} waits for the health of {needed}"
            if rule["condition"] == "service_completed_successfully":
                assert SERVICES[needed]["restart"] == "no"


def test_services_name_targets_volumes_and_networks_that_exist() -> None:
    exposed = instructions("EXPOSE")[0]
    for name, service in SERVICES.items():
        assert "restart" in service, name
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        if "build" in service:
            assert service["build"]["target"] in stages()
            assert (ROOT / service["build"]["context"]).is_dir()
    assert SERVICES["api"]["ports"][0].endswith(f":{exposed}")
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-gpu"]


def test_workers_reach_nothing_outside() -> None:
    for name, service in SERVICES.items():
        open_networks = [
            one for one in service["networks"] if not (COMPOSE["networks"][one] or {}).get("internal")
        ]
        assert bool(open_networks) == (name == "api"), name


def test_directories_of_the_image_are_the_ones_that_are_mounted() -> None:
    made = re.search(r"install --directory .* (/\S+ /\S+)$", DOCKERFILE, re.MULTILINE)
    assert made
    for service in OURS.values():
        for volume in service.get("volumes", []):
            assert any(fnmatch(volume.split(":")[1], folder) for folder in made[1].split())

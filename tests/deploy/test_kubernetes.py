"""The manifests for Kubernetes and KEDA: schemas, and everything that they name. No cluster has run them."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from app.catalog.runtimes import RUNTIMES
from app.config import Settings
from app.db import transaction
from app.main import create_app
from app.observability import queues as queue_metrics
from app.queue import INSPECT_QUEUE, queue_for
from app.serve import GRACE_SECONDS
from tests.deploy.commands import parse_command
from tests.deploy.documents import KEDA, KUBERNETES, ROOT, containers, documents, named, pods, queues

VERSION = "1.37"
STANDARD = documents(KUBERNETES)
SCALED = documents(KEDA)
KEDA_SCHEMA = Draft202012Validator(json.loads((Path(__file__).parent / "keda-schema.json").read_text()))
PATHS = [f"{one['kind']}/{one['metadata']['name']}" for one in STANDARD]


@pytest.mark.parametrize("document", STANDARD, ids=PATHS)
def test_a_manifest_fits_the_schema_of_kubernetes(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "pathh"), "/healthz"),
        (("spec", "template", "spec", "containers", 0, "image"), 5),
        (("spec", "template", "spec", "securityContext", "runAsNonRooot"), True),
        (("spec", "replica"), 2),
        (("kind",), "Deploymint"),
    ],
    ids=["probe", "type", "security", "field", "kind"],
)
def test_a_wrong_manifest_is_found(path: tuple[Any, ...], wrong: Any) -> None:
    document = copy.deepcopy(named("Deployment")["api"])
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.utils.SchemaNotFoundError)):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("document", SCALED, ids=[one["metadata"]["name"] for one in SCALED])
def test_a_scaled_object_fits_its_schema_and_scales_what_exists(document: dict[str, Any]) -> None:
    KEDA_SCHEMA.validate(document)
    target = named("Deployment")[document["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"]  # applied again, it would undo what KEDA decided
    behavior = document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": {
            "maxReplicas": 1,
            "scaleTargetRef": {"kind": "Deployment", "name": "x"},
            "behavior": behavior,
        },
    }
    kubernetes_validate.validate(scaler, VERSION, strict=True)


@pytest.mark.parametrize(
    "change",
    [{"maxReplicas": 3}, {"pollingInterval": "15"}, {"triggers": []}],
    ids=["field", "type", "empty"],
)
def test_a_wrong_scaled_object_is_found(change: dict[str, Any]) -> None:
    document = copy.deepcopy(SCALED[0])
    document["spec"].update(change)
    assert list(KEDA_SCHEMA.iter_errors(document))


def test_a_wrong_trigger_is_found() -> None:
    document = copy.deepcopy(SCALED[0])
    document["spec"]["triggers"][0]["metadata"]["thresold"] = "1"
    assert list(KEDA_SCHEMA.iter_errors(document))


@pytest.mark.parametrize("document", SCALED, ids=[one["metadata"]["name"] for one in SCALED])
def test_a_scaled_object_counts_the_queues_that_its_workers_serve(
    document: dict[str, Any], burnish_sqlite: Settings
) -> None:
    (trigger,) = document["spec"]["triggers"]
    metric, pattern = re.search(r'\b(burnish_\w+)\{queue=~"([^"]*)"\}', trigger["metadata"]["query"]).groups()
    with transaction(readonly=True) as session:
        scraped = {one.name: one for one in queue_metrics.families(session)}
    labels = [sample.labels for sample in scraped[metric].samples]
    assert {frozenset(one) for one in labels} == {frozenset({"queue", "state"})}
    counted = {one["queue"] for one in labels if re.fullmatch(pattern, one["queue"])}
    name = document["spec"]["scaleTargetRef"]["name"]
    assert counted == queues(name)
    command = pods()[name]["spec"]["containers"][0]["command"]
    assert trigger["metadata"]["threshold"] == command[command.index("--concurrency") + 1]


def test_workers_serve_queues_that_exist_each_on_its_device() -> None:
    devices = {queue_for(name): spec.device for name, spec in RUNTIMES.items()}
    assert queues("worker-inspect") == {INSPECT_QUEUE}
    assert {devices[queue] for queue in queues("worker-cpu")} == {"cpu"}
    assert {devices[queue] for queue in queues("worker-gpu")} == {"cuda"}
    in_image = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/worker.txt").read_text(), re.MULTILINE)
    )
    assert queues("worker-cpu") == {
        queue_for(name)
        for name, spec in RUNTIMES.items()
        if spec.device == "cpu" and in_image >= set(spec.packages)
    }


def test_jobs_for_workers_that_may_be_none_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    from_zero = [one["spec"] for one in SCALED if one["spec"]["minReplicaCount"] == 0]
    assert from_zero
    monkeypatch.setenv("BURNISH_ON_DEMAND", named("ConfigMap")["burnish"]["data"]["BURNISH_ON_DEMAND"])
    served = {queue for spec in from_zero for queue in queues(spec["scaleTargetRef"]["name"])}
    assert set(Settings().queues_on_demand) == served


def test_commands_exist_with_their_options() -> None:
    found = [container["command"] for _, container in containers()]
    assert len(found) == 6
    for command in found:
        parse_command(command)


def test_settings_exist_and_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    given = named("ConfigMap")["burnish"]["data"] | named("Secret")["burnish"]["stringData"]
    known = {f"BURNISH_{name.upper()}" for name in Settings.model_fields}
    text = "".join(path.read_text() for path in KUBERNETES.glob("*.yaml"))
    assert set(re.findall(r"\bBURNISH_[A-Z_0-9]+", text)) <= known
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.require_sandbox
    for name, container in containers():
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert settings.blobs_path.parent.as_posix() in mounted
        assert settings.scratch_path.as_posix() in mounted or not name.startswith("worker"), name


def test_jobs_that_run_at_once_fit_into_their_pod() -> None:
    for name, container in containers():
        command = container["command"]
        if "--concurrency" not in command or (jobs := int(command[command.index("--concurrency") + 1])) == 1:
            continue
        (limit,) = [one["value"] for one in container["env"] if one["name"] == "BURNISH_CHILD_MEMORY_BYTES"]
        memory = container["resources"]["limits"]["memory"]
        assert jobs * int(limit) < int(memory.removesuffix("Gi")) * 2**30, name


def test_probes_ask_routes_that_exist_on_the_port_that_is_served() -> None:
    (api,) = pods()["api"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in api["ports"]}
    paths = create_app().openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert api[probe]["httpGet"]["path"] in paths
        assert api[probe]["httpGet"]["port"] in ports
    assert api["livenessProbe"]["httpGet"]["path"] != "/readyz"
    assert ports["http"] == int(api["command"][api["command"].index("--port") + 1])
    assert named("Service")["api"]["spec"]["ports"][0]["targetPort"] in ports


def test_pods_get_the_time_that_they_need_to_stop() -> None:
    api = pods()["api"]["spec"]
    sleeps = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert api["terminationGracePeriodSeconds"] > GRACE_SECONDS + sleeps
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-worker"]["stop_grace_period"]
    for name in ("worker-inspect", "worker-cpu", "worker-gpu"):
        assert f"{pods()[name]['spec']['terminationGracePeriodSeconds']}s" == compose


def test_pods_are_what_the_namespace_demands() -> None:
    assert (
        named("Namespace")["burnish"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    for name, pod in pods().items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"], name
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))
        assert context["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["spec"]["automountServiceAccountToken"] is False
    for _, container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_what_is_referred_to_exists() -> None:
    for name, pod in pods().items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in named("PersistentVolumeClaim")
        assert pod["spec"]["serviceAccountName"] in named("ServiceAccount")
        for owner, container in containers():
            if owner == name:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
                assert container["envFrom"][0]["configMapRef"]["name"] in named("ConfigMap")
                assert container["envFrom"][1]["secretRef"]["name"] in named("Secret")
    for name, deployment in named("Deployment").items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
    api = pods()["api"]["metadata"]["labels"].items()
    assert named("Service")["api"]["spec"]["selector"].items() <= api
    assert named("PodDisruptionBudget")["api"]["spec"]["selector"]["matchLabels"].items() <= api
    components = named("NetworkPolicy")["workers"]["spec"]["podSelector"]["matchExpressions"][0]["values"]
    for name, pod in pods().items():
        assert (pod["metadata"]["labels"]["app.kubernetes.io/component"] in components) == (name != "api")


def test_kustomizations_name_every_file_and_every_image_but_no_secret() -> None:
    for folder in (KUBERNETES, KEDA):
        listed = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
        files = {path.name for path in folder.glob("*.yaml")}
        assert listed == files - {"kustomization.yaml", "secret.example.yaml"}
    images = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["images"]
    assert {one["name"] for one in images} == {container["image"] for _, container in containers()}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    assert {one["name"] for one in images} <= {one["image"] for one in compose} | {"burnish-worker-gpu"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [KUBERNETES, KEDA], ids=["kubernetes", "keda"])
def test_kubectl_puts_them_together(folder: Path) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=120, check=True
    )
    for document in yaml.safe_load_all(built.stdout):
        if document["apiVersion"] != "keda.sh/v1alpha1":
            kubernetes_validate.validate(document, VERSION, strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "burnish"

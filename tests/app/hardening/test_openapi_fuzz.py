"""Every operation of the OpenAPI document under generated requests, right and wrong ones, over rows that are there.

No 5xx, no status, media type or answer that the document does not describe.
"""

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.app.api.support import Server, bearer, make_key, make_project
from tests.app.jobs.factories import (
    RUNTIME,
    claim,
    finish,
    make_artifact,
    make_dataset,
    make_model,
    offer,
    optimize,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/partial-upload", "application/offset+octet-stream")
def raw(ctx: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def rows(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[Server, dict[str, list[str]]]:
    """A served installation with rows of every kind; their ids by the name of a path's parameter."""
    monkeypatch.setenv("BURNISH_MAX_WAIT_SECONDS", "0.05")
    server: Server = request.getfixturevalue("server_sqlite")
    offer(RUNTIME)
    models = [make_model() for _ in range(6)] + [make_model(status="inspecting", digest=None, facts={})]
    jobs = []
    for _ in range(6):
        labels = {"team": "vision"}
        answer = server.client.post("/v1/jobs", json=optimize(models[0], labels=labels))
        assert answer.status_code == 202, answer.text
        job_id = str(answer.json()["id"])
        attempt = claim(job_id)
        assert attempt is not None
        assert finish(job_id, attempt)
        jobs.append(job_id)
    uploads = [
        server.client.post("/v1/uploads", json={"name": f"{number}.onnx", "size_bytes": 10}).json()["id"]
        for number in range(4)
    ]
    keys = [f"key_{make_key('read').split('_')[1]}" for _ in range(4)]
    return (
        server,
        {
            "model_id": models,
            "dataset_id": [make_dataset() for _ in range(4)],
            "job_id": jobs,
            "artifact_id": [make_artifact(job_id, job_id.encode()) for job_id in jobs],
            "upload_id": uploads,
            "key_id": keys,
            "project_id": [make_project(f"p{number}") for number in range(4)],
        },
    )


def bombard(server: Server, known: dict[str, list[str]], examples: int, *, deterministic: bool) -> None:
    document = server.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    headers = bearer(server.key)
    base = f"http://{server.host}:{server.port}"
    failures: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            try:
                cases = operation.as_strategy(generation_mode=mode)

                @hypothesis.settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    derandomize=deterministic,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate],
                )
                @hypothesis.given(case=cases, pick=strategies.integers(0, 9))
                def ask(case: Any, pick: int) -> None:
                    for name in case.path_parameters or {}:
                        if name in known and pick < 8:
                            case.path_parameters[name] = known[name][pick % len(known[name])]
                    case.call_and_validate(base_url=base, headers=headers, checks=CHECKS, timeout=60)

                ask()
            except Unsatisfiable:
                continue  # nothing can be wrong in a request without parameters
            except (Exception, BaseExceptionGroup) as error:
                failures.append(f"{operation.label} ({mode.value}):\n{_told(error)}")
    assert not failures, "\n\n".join(failures)


def _told(error: BaseException) -> str:
    told = [str(error), *getattr(error, "__notes__", [])]
    for inner in getattr(error, "exceptions", ()):
        told.append(_told(inner))
    return "\n".join(told)


def test_generated_requests(rows: tuple[Server, dict[str, list[str]]]) -> None:
    server, known = rows
    bombard(server, known, 5, deterministic=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_generated_requests(rows: tuple[Server, dict[str, list[str]]]) -> None:
    server, known = rows
    bombard(server, known, 200, deterministic=False)

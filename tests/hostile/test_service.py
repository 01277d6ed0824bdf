"""The same files through everything: HTTP, storage, queue, worker, child. And jobs on those that inspection accepts."""

from typing import Any

import pytest

from tests.hostile import running
from tests.hostile.case import READY
from tests.hostile.corpus import CORPUS
from tests.hostile.judge import faults
from tests.hostile.uploading import Uploader

SAMPLE = (
    "bytes/empty", "pickles/torch-zip", "truncated/silero-0.6", "zip/outside-up", "zip/quoted-overlap", "zip/bomb-deflate",
    "tar/is-symlink", "external/location-absolute", "graph/functions-call-each-other", "tensor/values-nan",
    "wire/nodes-20m-empty", "name/node-ansi-colour", "dataset/pickled-objects", "dataset/header-minus-signs",
)  # fmt: skip
JOB_CODES = {"invalid_model", "out_of_memory", "timed_out", "unsupported_operator", "signature_mismatch", "incompatible_recipe"}  # fmt: skip
CRASHES = {"running/smallest-divided"}  # SIGFPE in ONNX Runtime itself
PASSES: list[list[dict[str, Any]]] = [[], [{"pass": "simplify"}], [{"pass": "quantize-dynamic"}]]
RUNNING_SECONDS = 30


def test_a_service_answers_hostile_uploads_and_serves_on(uploader: Uploader) -> None:
    wrong = [fault for name in SAMPLE for fault in uploader.wrong_with(CORPUS[name])]
    assert wrong == []
    assert uploader.harm() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", sorted({name.split("/")[0] for name in CORPUS}))
def test_every_hostile_file_through_the_whole_service(family: str, uploader: Uploader) -> None:
    wrong = [
        fault
        for name, one in CORPUS.items()
        if name.split("/")[0] == family
        for fault in uploader.wrong_with(one)
    ]
    assert wrong == []
    assert uploader.harm() == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [one.name for one in running.CASES])
def test_a_model_that_explodes_ends_its_job_with_a_clear_problem(name: str, uploader: Uploader) -> None:
    model, row = uploader.upload(CORPUS[name])
    if row["status"] != READY:
        return
    for passes in PASSES:
        job = optimized(uploader, model, passes)
        if job["status"] == "succeeded":
            continue
        problem = job["problem"]
        assert problem["code"] in (JOB_CODES | {"crashed"} if name in CRASHES else JOB_CODES), (
            passes,
            problem,
        )
        assert faults(problem, str(uploader.folder)) == []
    assert uploader.harm() == []


def optimized(uploader: Uploader, model: str, passes: list[dict[str, Any]]) -> dict[str, Any]:
    """The end of a job, which may take half a minute."""
    return uploader.client.wait(
        uploader.client.submit(
            {
                "kind": "optimize",
                "subject": model,
                "recipe": {"schema": 1, "passes": passes},
                "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
                "limits": {"running_seconds": RUNNING_SECONDS},
            }
        )["id"]
    )

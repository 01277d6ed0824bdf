"""Where jobs wait: in the queue of what they need, known before anything is queued."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.catalog.compute_capability import number_of
from app.catalog.recipe import Target
from app.db import transaction
from app.fleet import service as fleet
from app.ids import new_id
from app.jobs.routing import measuring_queue
from app.jobs.tables import Job
from app.queue import queue_for
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import make_dataset, make_model, offer, optimize
from workers.worker import capabilities

RTX = "tensorrt-rtx"
ALLOWED = {"options": {"allow_unmeasured": True}}
NOTHING = {"schema": 1, "passes": []}


def with_gpu(capability: str, *runtimes: str, building: bool = True) -> str:
    """A live worker with one GPU, that serves what such a worker serves by itself, or only what needs the GPU."""
    hardware = {"gpus": [{"name": "a card", "compute_capability": capability}]}
    found = {"runtimes": {name: {"version": "1"} for name in runtimes}, "hardware": hardware}
    queues = [queue for queue in capabilities(found) if building or ".sm" in queue]
    with transaction() as session:
        worker = fleet.register(
            session, worker_id=new_id("wrk"), host=new_id("host"), pid=1, version="0", queues=queues, **found
        )
        return worker.id


def go_offline(worker: str) -> None:
    with transaction() as session:
        fleet.stop(session, worker)


def submit(api: TestClient, target: Any, **fields: Any) -> Any:
    body = {**optimize(make_model()), "targets": [target], "recipe": NOTHING, **fields}
    return api.post("/v1/jobs", json=body)


def queue_of(api: TestClient, target: str, **fields: Any) -> str:
    """The queue in which a job for a target waits."""
    answer = submit(api, target, **fields)
    assert answer.status_code == 202, answer.text
    with transaction(readonly=True) as session:
        return session.get_one(Job, answer.json()["id"]).queue


def goes_on(target: str, queue: str, **options: Any) -> str | None:
    """Where a job goes that was built without a GPU for it."""
    runtime, _, kinds = target.partition(":sm")
    params = {"compute_capabilities": [int(kinds)]} if kinds else {}
    with transaction(readonly=True) as session:
        target_ = Target(runtime=runtime, params=params)
        return measuring_queue(session, target_, queue, **{"allow_unmeasured": False, **options})


def test_a_queue_for_each_runtime_and_each_kind_of_gpu() -> None:
    assert queue_for("tensorrt") == "runtime.tensorrt"
    assert queue_for("tensorrt", 89) == queue_for("tensorrt", number_of("8.9")) == "runtime.tensorrt.sm89"


def test_a_job_for_one_kind_of_gpu_waits_for_a_worker_that_has_it(api: TestClient) -> None:
    with_gpu("8.0", "tensorrt")
    assert queue_of(api, "tensorrt") == "runtime.tensorrt"
    assert queue_of(api, "tensorrt:sm80") == "runtime.tensorrt.sm80"
    refused = submit(api, "tensorrt:sm90")
    problem = assert_problem(refused, 409, "no_worker")
    assert problem["param"] == "targets[0].params.compute_capabilities"
    assert "9.0" in problem["detail"]
    assert "runtime.tensorrt.sm90" in problem["hint"]


def test_of_several_kinds_one_that_is_online_is_taken(api: TestClient) -> None:
    go_offline(with_gpu("8.0", "tensorrt"))
    with_gpu("9.0", "tensorrt")
    assert queue_of(api, "tensorrt:sm80+sm90") == "runtime.tensorrt.sm90"
    assert queue_of(api, "tensorrt:sm80") == "runtime.tensorrt.sm80"  # offline: it may come back


def test_a_runtime_on_cpus_has_no_kinds(api: TestClient) -> None:
    offer("onnxruntime-cpu")
    assert queue_of(api, "onnxruntime-cpu") == "runtime.onnxruntime-cpu"
    assert_problem(submit(api, "onnxruntime-cpu:sm89"), 422, "invalid_params")


def test_an_engine_that_nobody_could_measure_is_refused(api: TestClient) -> None:
    offer(RTX)
    refused = submit(api, RTX)
    problem = assert_problem(refused, 409, "no_worker")
    assert problem["param"] == "options.allow_unmeasured"
    assert "allow-unmeasured" in problem["hint"]
    assert queue_of(api, f"{RTX}:sm89", **ALLOWED) == "runtime.tensorrt-rtx"


@pytest.mark.parametrize(("capability", "status"), [("8.9", 202), ("9.0", 409)])
def test_a_worker_with_such_a_gpu_is_enough(api: TestClient, capability: str, status: int) -> None:
    offer(RTX)
    with_gpu(capability, RTX)
    assert submit(api, f"{RTX}:sm86+sm89").status_code == status


def test_what_is_built_ahead_of_time_is_built_where_anybody_builds(api: TestClient) -> None:
    measurer = with_gpu("8.9", RTX, building=False)
    assert queue_of(api, f"{RTX}:sm89") == "runtime.tensorrt-rtx.sm89"  # nobody else builds
    builder = offer(RTX)
    assert queue_of(api, f"{RTX}:sm89") == "runtime.tensorrt-rtx"
    go_offline(builder)
    assert queue_of(api, f"{RTX}:sm89") == "runtime.tensorrt-rtx.sm89"
    go_offline(measurer)
    assert queue_of(api, f"{RTX}:sm89") == "runtime.tensorrt-rtx"


def test_what_was_built_goes_on_where_it_can_be_measured(api: TestClient) -> None:
    building = queue_for(RTX)
    offer(RTX)
    assert goes_on(f"{RTX}:sm89", building) is None
    measurer = with_gpu("8.9", RTX)
    assert goes_on(f"{RTX}:sm89", building) == goes_on(RTX, building) == "runtime.tensorrt-rtx.sm89"
    assert goes_on(f"{RTX}:sm86", building) is None
    assert goes_on(f"{RTX}:sm89", "runtime.tensorrt-rtx.sm89") is None  # it is there already
    assert goes_on("onnxruntime-cpu", "runtime.onnxruntime-cpu") is None
    assert goes_on(f"{RTX}:sm89", building, allow_unmeasured=True) == "runtime.tensorrt-rtx.sm89"
    go_offline(measurer)
    assert goes_on(f"{RTX}:sm89", building) == "runtime.tensorrt-rtx.sm89"
    assert goes_on(f"{RTX}:sm89", building, allow_unmeasured=True) is None


def test_the_preflight_answer_says_so(api: TestClient) -> None:
    offer(RTX)
    model = make_model()
    body = {**optimize(model), "targets": [f"{RTX}:sm89"], "recipe": NOTHING}
    (target,) = api.post(f"/v1/models/{model}/validate", json=body).json()["targets"]
    assert target["problem"]["param"] == "options.allow_unmeasured"
    worker = with_gpu("8.9", "tensorrt")
    body["targets"] = ["tensorrt:sm89"]
    (target,) = api.post(f"/v1/models/{model}/validate", json=body).json()["targets"]
    assert target["problem"] is None
    assert target["workers"] == {"queue": "runtime.tensorrt.sm89", "state": "online", "workers": [worker]}


def test_what_a_machine_can_do() -> None:
    gpus = [{"compute_capability": "8.9"}, {"compute_capability": "8.9"}, {"compute_capability": "9.0"}]
    found = {"runtimes": {"onnxruntime-cpu": {}, "tensorrt": {}}, "hardware": {"gpus": gpus}}
    assert capabilities(found) == [
        "runtime.onnxruntime-cpu",
        "runtime.tensorrt",
        "runtime.tensorrt.sm89",
        "runtime.tensorrt.sm90",
    ]


@pytest.mark.parametrize(("threads", "status"), [(0, 202), (8, 202), (9, 422)])
def test_no_more_threads_than_a_worker_has_processors(api: TestClient, threads: int, status: int) -> None:
    for cores in (8, 2):
        with transaction() as session:
            fleet.register(
                session, worker_id=new_id("wrk"), host=new_id("host"), pid=1, version="0",
                queues=["runtime.onnxruntime-cpu"], runtimes={}, hardware={"cores": cores},
            )  # fmt: skip
    target: Any = {"runtime": "onnxruntime-cpu", "params": {"threads": threads}}
    answer = submit(api, target)
    assert answer.status_code == status, answer.text
    if status == 422:
        assert answer.json()["param"] == "targets[0].params.threads"
        assert "8 processors" in answer.json()["detail"]


def test_a_training_by_horovod_needs_a_worker_that_has_it(api: TestClient) -> None:
    offer("onnxruntime-cpu")
    distributed = {"processes": 2, "backend": "horovod"}
    step = {"pass": "finetune", "params": {"distributed": distributed}, "inputs": {"train": make_dataset()}}
    by_horovod = {"recipe": {"schema": 1, "passes": [step]}}
    problem = assert_problem(submit(api, "onnxruntime-cpu", **by_horovod), 409, "no_worker")
    assert problem["param"] == "recipe.passes[0].params.distributed.backend"
    assert "make horovod-env" in problem["hint"]
    with transaction() as session:
        fleet.register(
            session, worker_id=new_id("wrk"), host=new_id("host"), pid=1, version="0",
            queues=[queue_for("onnxruntime-cpu")], runtimes={"onnxruntime-cpu": {}}, hardware={fleet.HOROVOD: "0.28.1"},
        )  # fmt: skip
    assert queue_of(api, "onnxruntime-cpu", **by_horovod) == queue_for("onnxruntime-cpu")


def test_horovod_shares_out_no_weights(api: TestClient) -> None:
    offer("onnxruntime-cpu")
    distributed = {"processes": 2, "backend": "horovod", "strategy": "fsdp"}
    step = {"pass": "finetune", "params": {"distributed": distributed}, "inputs": {"train": make_dataset()}}
    refused = submit(api, "onnxruntime-cpu", recipe={"schema": 1, "passes": [step]})
    assert "Horovod has no shares of weights" in assert_problem(refused, 422, "invalid_params")["detail"]

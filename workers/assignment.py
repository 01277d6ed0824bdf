"""What a supervisor hands to a child: one attempt of one job, as one JSON file. The child needs nothing else."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.jobs.looking import JobKind
from workers.model_handle import ModelHandle

UPLOAD_NAMES = {
    "model": "model.onnx",
    "dataset": "data.npz",
}  # under which an upload is laid out for inspection


class SubjectFiles(BaseModel):
    """The model to work on, laid out under `root`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    digest: str
    root: Path
    entry: str
    format: str
    signature: dict[str, Any]  # {inputs, outputs: [{name, dtype, shape}]}
    facts: dict[str, Any]
    declared: dict[str, Any] = {}  # what the uploader said of it, as far as its format needs that
    license: str | None = None  # as the uploader said it
    name: str
    structure: dict[str, Any] = {}  # its layers, of an uploaded model that is profiled

    def handle(self) -> ModelHandle:
        """The model, to be opened."""
        return ModelHandle(self.root, self.entry, self.format, self.digest, self.declared)


class DatasetFiles(BaseModel):
    """A dataset laid out under `root`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    digest: str
    root: Path
    format: str
    name: str
    declared: dict[str, Any] = {}  # how it is read: `fields`, `transforms`


class Part(BaseModel):
    """The part that a node other than the first has in the training of a job's pass; `work` as the first node said it."""

    model_config = ConfigDict(extra="forbid")

    node: int
    count: int
    work: dict[str, Any]  # see `nodes.gathering.Work`


class JobAssignment(BaseModel):
    """One attempt of a job. `recipe`, `target`, `evaluation`, `budget`, `options` are the job's request, normalized: defaults
    filled in, pass versions pinned, one target. `asked` is what its kind alone is asked for (`app/jobs/looking.py`)."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind = "optimize"
    job_id: str
    attempt: int
    scratch: Path
    seed: int = 0
    subject: SubjectFiles
    origin: SubjectFiles | None = (
        None  # of a built engine: the model that it was made from, if it is still there
    )
    datasets: dict[str, DatasetFiles]  # by id
    teachers: dict[str, SubjectFiles] = {}  # by id
    recipe: dict[str, Any]
    target: dict[str, Any]
    evaluation: dict[str, Any] | None
    budget: dict[str, Any] | None
    options: dict[str, Any]
    asked: dict[str, Any] = {}
    inputs: dict[str, str] = {}  # datasets by role, where the request names some besides its recipe's
    data: str | None = None  # the dataset that engines are run on, where the request names one
    advice: dict[str, Any] | None = None  # that the job follows, as `find_advice` gives it
    measure_seconds: float
    measure_launches: int
    checkpoint_seconds: float = 300.0
    memory_bytes: int = 0  # most resident memory of the attempt; 0: not told
    gathers: bool = False  # whether its passes may take other workers to train with
    part: Part | None = None  # where another worker has the job, and this one helps
    measuring_queue: str | None = None  # where a job goes on whose engine cannot run here


class InspectAssignment(BaseModel):
    """One inspection of an upload: `file` is the upload as it came."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["inspect"] = "inspect"
    subject: Literal["model", "dataset"]
    subject_id: str
    scratch: Path
    file: Path
    filename: str
    declared: dict[str, Any]
    runtimes: list[str] = []  # to ask for the model's operators
    tokenizers: Path | None = None  # a dataset's: a folder for each step that tokenizes, called by its number
    max_archive_bytes: int
    max_archive_files: int

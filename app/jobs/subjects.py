"""What a job works on: a model or an artifact, and the datasets that it reads. Rows are locked against deletion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import uploaded
from app.artifacts.tables import Artifact
from app.catalog.recipe import DatasetFacts
from app.catalog.spec import ModelFacts
from app.datasets.tables import Dataset
from app.errors import Conflict, InvalidDataset, InvalidModel, InvalidParams, NotFound
from app.models.tables import Model

BUNDLE = "bundle.zip"
ENGINE = "engine"  # the format of a subject that is a built engine's bundle


@dataclass(frozen=True)
class Subject:
    """A network that a job can start from. `signature` and `facts` are those of an inspected model."""

    id: str
    digest: str
    format: str
    signature: dict[str, Any]
    facts: dict[str, Any]
    target: dict[str, Any] | None = None  # of an engine: what it was built for

    def model_facts(self) -> ModelFacts:
        """What validation and presets look at."""
        return ModelFacts(
            format=self.format,
            precision=self.facts["precision"],
            operators=self.facts["operators"],
            size_bytes=self.facts["size_bytes"],
            inputs=tuple(self.signature["inputs"]),
            outputs=tuple(self.signature["outputs"]),
            control_flow=self.facts.get("control_flow", {}),
            conversions=self.facts.get("conversions", {}),
            coverage=self.facts.get("coverage", {}),
        )


def find_subject(
    session: Session, project_id: str, id_: str, path: str = "subject", *, engines: bool = False
) -> Subject:
    """The model or artifact of the project that a job names; `path` says where in the request, `engines` whether it may be one.

    Raises:
        NotFound: the project has none with this id.
        Conflict: the model is not inspected yet.
        InvalidModel: it was rejected.
        InvalidParams: the artifact is no model.
    """
    if id_.startswith("art_"):
        return _artifact(session, project_id, id_, path, engines)
    return _model(session, project_id, id_, path)


def find_datasets(session: Session, project_id: str, paths: Mapping[str, str]) -> dict[str, DatasetFacts]:
    """The project's datasets by id; `paths` says where in the request each is named.

    Raises:
        NotFound: the project has none with this id.
        Conflict: one is not inspected yet.
        InvalidDataset: one was rejected.
    """
    query = (
        select(Dataset).where(Dataset.project_id == project_id, Dataset.id.in_(paths)).order_by(Dataset.id)
    )
    rows = {row.id: row for row in session.scalars(query.with_for_update(read=True, key_share=True))}
    found = {}
    for id_, path in paths.items():
        if id_ not in rows:
            raise NotFound(f"there is no dataset {id_}", param=path)
        row = rows[id_]
        if row.status == uploaded.INSPECTING:
            raise _not_inspected("dataset", id_, path)
        if row.status == uploaded.REJECTED:
            problem = row.problem or {}
            raise InvalidDataset(
                f"the dataset {id_} was rejected: {problem.get('detail')}",
                param=path,
                hint=problem.get("hint"),
                errors=[problem],
            )
        found[id_] = DatasetFacts(id_, row.digest or "", row.samples or 0, row.inputs or {}, row.labels)
    return found


def _model(session: Session, project_id: str, id_: str, path: str) -> Subject:
    query = select(Model).where(Model.id == id_, Model.project_id == project_id)
    row = session.scalar(query.with_for_update(read=True, key_share=True))
    if row is None:
        raise NotFound(f"there is no model {id_}", param=path)
    if row.status == uploaded.INSPECTING:
        raise _not_inspected("model", id_, path)
    if row.status == uploaded.REJECTED:
        problem = row.problem or {}
        raise InvalidModel(
            f"the model {id_} was rejected: {problem.get('detail')}",
            param=path,
            hint=problem.get("hint"),
            errors=[problem],
        )
    return Subject(id_, row.digest or "", row.format or "", row.signature or {}, row.facts or {})


def _artifact(session: Session, project_id: str, id_: str, path: str, engines: bool) -> Subject:
    query = select(Artifact).where(Artifact.id == id_, Artifact.project_id == project_id)
    row = session.scalar(query.with_for_update(read=True, key_share=True))
    if row is None:
        raise NotFound(f"there is no artifact {id_}", param=path)
    if engines and row.kind == "engine" and row.manifest is not None:
        made = row.manifest
        return Subject(id_, row.digest, ENGINE, made["signature"], {"entry": BUNDLE}, target=made["target"])
    if row.kind != "model" or row.tree_digest is None or row.manifest is None:
        raise InvalidParams(
            f"the artifact {id_} is of kind {row.kind}; "
            f"such a job can start from one of kind `model`{' or `engine`' if engines else ''}",
            param=path,
            hint=f"see `GET /v1/artifacts?job={row.job_id}&kind=model`",
        )
    described = row.manifest
    return Subject(id_, row.tree_digest, described["format"], described["signature"], described["facts"])


def _not_inspected(noun: str, id_: str, path: str) -> Conflict:
    return Conflict(
        f"the {noun} {id_} is not inspected yet",
        param=path,
        hint=f"wait for it with `GET /v1/{noun}s/{id_}?wait=30`",
    )

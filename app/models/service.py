"""Uploaded networks."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app import uploaded
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.models.schemas import ModelFields, ModelQuery
from app.models.tables import Model
from app.storage import Blob


def create_model(session: Session, project_id: str, blob: Blob, filename: str, fields: ModelFields) -> Model:
    """A new model over a stored file; its inspection is rung for after the commit."""
    model = Model(
        id=new_id("mdl"),
        project_id=project_id,
        name=fields.name or filename[:200],
        filename=filename,
        status=uploaded.INSPECTING,
        upload_digest=blob.digest,
        size_bytes=blob.size_bytes,
        declared=fields.declared(),
    )
    uploaded.add(session, model)
    return model


def get_model(session: Session, project_id: str, model_id: str, *, hold: bool = False) -> Model:
    """A model of the project; held, it cannot be deleted before the transaction ends. Raises NotFound."""
    return uploaded.find(session, Model, project_id, model_id, hold=hold)


def get_structure(session: Session, project_id: str, model_id: str) -> dict[str, Any]:
    """What layers an inspected model has, see `workers.surgery.structure.report`.

    Raises:
        NotFound: the project has no such model, or its layers were not counted.
        Conflict: it is not ready.
    """
    model = get_model(session, project_id, model_id)
    if model.status != uploaded.READY:
        raise Conflict(
            f"the model {model_id} is {model.status}: its layers are not known",
            hint=f"wait for its inspection: `GET /v1/models/{model_id}?wait=30`"
            if model.status == uploaded.INSPECTING
            else "upload a model that can be read",
        )
    if model.structure is None:
        raise NotFound(
            f"the layers of the model {model_id} were not counted",
            hint="upload it again: models that were inspected by an earlier release, or cannot be counted, have none",
        )
    return model.structure


def list_models(session: Session, project_id: str, query: ModelQuery) -> tuple[list[Model], str | None]:
    """A page of the project's models and the cursor of the next."""
    return uploaded.page_of(session, Model, project_id, query, status=query.status, name=query.name)


def delete_model(session: Session, project_id: str, model_id: str) -> None:
    """Delete a model. Raises NotFound, and Conflict while a job refers to it."""
    uploaded.remove(session, Model, project_id, model_id)


def begin_inspection(session: Session, model_id: str, lease_seconds: float) -> Model | None:
    """Claim a model's inspection; None where it is done or somebody else's. See `uploaded.begin_inspection`."""
    return uploaded.begin_inspection(session, Model, model_id, lease_seconds)


def finish_inspection(
    session: Session,
    model_id: str,
    attempt: int,
    *,
    ready: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
) -> bool:
    """End a model's inspection; `ready` holds `format digest signature facts structure`. False: the attempt is stale."""
    return uploaded.finish_inspection(session, Model, model_id, attempt, ready=ready, problem=problem)

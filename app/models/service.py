"""Uploaded networks."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app import uploaded
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
    """End a model's inspection; `ready` holds `format digest signature facts`. False: the attempt is stale."""
    return uploaded.finish_inspection(session, Model, model_id, attempt, ready=ready, problem=problem)

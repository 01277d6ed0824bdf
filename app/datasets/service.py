"""Uploaded samples."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app import uploaded
from app.datasets.schemas import DatasetFields, DatasetQuery
from app.datasets.tables import Dataset
from app.errors import InvalidParams
from app.ids import new_id
from app.jobs.subjects import find_subject
from app.models.tokenizer import TOKENIZER, tokenizer_files
from app.storage import Blob


def create_dataset(
    session: Session, project_id: str, blob: Blob, filename: str, fields: DatasetFields
) -> Dataset:
    """A new dataset over a stored file; its inspection is rung for after the commit.

    Raises:
        NotFound: a transform names a model that the project does not have.
        Conflict: the model is not inspected yet.
        InvalidModel: it was rejected.
        InvalidParams: it has no tokenizer, or does not take as many tokens.
    """
    _check_tokenizers(session, project_id, fields.declared())
    dataset = Dataset(
        id=new_id("dat"),
        project_id=project_id,
        name=fields.name or filename[:200],
        filename=filename,
        status=uploaded.INSPECTING,
        upload_digest=blob.digest,
        size_bytes=blob.size_bytes,
        declared=fields.declared(),
    )
    uploaded.add(session, dataset)
    return dataset


def tokenizing_steps(declared: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
    """The transforms that tokenize, of what was declared of a dataset: {number: transform}."""
    steps = (declared or {}).get("transforms", [])
    return {number: step for number, step in enumerate(steps) if step["do"] == "tokenize"}


def get_dataset(session: Session, project_id: str, dataset_id: str, *, hold: bool = False) -> Dataset:
    """A dataset of the project; held, it cannot be deleted before the transaction ends. Raises NotFound."""
    return uploaded.find(session, Dataset, project_id, dataset_id, hold=hold)


def list_datasets(session: Session, project_id: str, query: DatasetQuery) -> tuple[list[Dataset], str | None]:
    """A page of the project's datasets and the cursor of the next."""
    return uploaded.page_of(session, Dataset, project_id, query, status=query.status, name=query.name)


def delete_dataset(session: Session, project_id: str, dataset_id: str) -> None:
    """Delete a dataset. Raises NotFound, and Conflict while a job refers to it."""
    uploaded.remove(session, Dataset, project_id, dataset_id)


def begin_inspection(session: Session, dataset_id: str, lease_seconds: float) -> Dataset | None:
    """Claim a dataset's inspection; None where it is done or somebody else's. See `uploaded.begin_inspection`."""
    return uploaded.begin_inspection(session, Dataset, dataset_id, lease_seconds)


def finish_inspection(
    session: Session,
    dataset_id: str,
    attempt: int,
    *,
    ready: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
) -> bool:
    """End a dataset's inspection; `ready` holds `format digest samples inputs labels`. False: the attempt is stale."""
    return uploaded.finish_inspection(session, Dataset, dataset_id, attempt, ready=ready, problem=problem)


def _check_tokenizers(session: Session, project_id: str, declared: Mapping[str, Any] | None) -> None:
    for number, step in tokenizing_steps(declared).items():
        at = f"transforms[{number}]"
        model = find_subject(session, project_id, step["model"], f"{at}.model")
        if not tokenizer_files(model.digest, model.facts["entry"]):
            raise InvalidParams(
                f"the model {model.id} has no {TOKENIZER} among its files",
                param=f"{at}.model",
                hint="pack what `tokenizer.save_pretrained(folder)` writes beside the model, and upload it again",
            )
        longest = model.facts.get("limits", {}).get("sequence")
        if longest is not None and step["length"] > longest:
            raise InvalidParams(
                f"the model {model.id} takes {longest} tokens at most, `length` is {step['length']}",
                param=f"{at}.length",
            )

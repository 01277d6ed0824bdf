"""Resumable uploads: rows over partial blobs. The store knows how far one is, the row whose it is and who appends."""

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.audit.service import record
from app.auth.quotas import check_storage
from app.config import get_settings
from app.db import after_commit, db_now
from app.errors import Conflict, NotFound, PayloadTooLarge
from app.http.paging import paginate
from app.ids import new_id
from app.references import release
from app.storage import Blob, get_storage
from app.uploads.schemas import UploadAnswer, UploadQuery, UploadRequest
from app.uploads.tables import Upload

RETRY_SECONDS = 1  # when to ask again for an upload to which another request appends


def create(session: Session, project_id: str, request: UploadRequest) -> Upload:
    """Announce a file.

    Raises:
        PayloadTooLarge: it is larger than this service takes.
        QuotaExceeded: with it, the project would store more than it may.
    """
    limit = get_settings().max_upload_bytes
    if request.size_bytes is not None and request.size_bytes > limit:
        raise PayloadTooLarge(
            f"{request.size_bytes} bytes are more than the {limit} that an upload may have",
            param="size_bytes",
            hint="upload a smaller file, or raise BURNISH_MAX_UPLOAD_BYTES",
        )
    check_storage(session, project_id, request.size_bytes or 0)
    upload = Upload(
        id=new_id("upl"), project_id=project_id, **request.model_dump(), offset_bytes=0, expires_at=_expiry()
    )
    session.add(upload)
    session.flush()
    record(session, project_id, "upload.created", upload.id, name=upload.name, size_bytes=upload.size_bytes)
    return upload


def find(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """An upload of the project; locked, nobody else consumes or deletes it meanwhile.

    Raises:
        NotFound: the project has none with this id, or it has expired.
    """
    query = select(Upload).where(*_of(project_id, upload_id))
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound(f"there is no upload {upload_id}", hint="it may have expired, or been used already")
    return upload


def page_of(session: Session, project_id: str, page: UploadQuery) -> tuple[list[Upload], str | None]:
    """A page of the project's uploads, newest first."""
    query = select(Upload).where(Upload.project_id == project_id, Upload.expires_at > db_now())
    if page.name is not None:
        query = query.where(Upload.name == page.name)
    if page.sha256 is not None:
        query = query.where(Upload.sha256 == page.sha256)
    return paginate(session, query, Upload, page)


def offset_of(upload: Upload) -> int:
    """How many bytes of an upload are in the store: more than its row says, where an API process died meanwhile."""
    return (upload.size_bytes or 0) if upload.digest else get_storage().partial(upload.id).size()


def answer(upload: Upload, offset_bytes: int) -> UploadAnswer:
    """What a client is told of an upload."""
    return UploadAnswer(
        id=upload.id,
        name=upload.name,
        size_bytes=upload.size_bytes,
        offset_bytes=offset_bytes,
        complete=upload.digest is not None,
        sha256=upload.digest or upload.sha256,
        expires_at=upload.expires_at,
        created_at=upload.created_at,
    )


def remove(session: Session, project_id: str, upload_id: str) -> None:
    """Forget an upload and its bytes. Raises NotFound."""
    upload = find(session, project_id, upload_id, lock=True)
    record(session, project_id, "upload.deleted", upload_id, name=upload.name)
    session.delete(upload)
    _forget_bytes(session, upload.id, upload.digest)


def consume(session: Session, project_id: str, upload_id: str) -> tuple[Blob, str]:
    """Take a complete upload's file and its name, for a row that this transaction adds; the upload is gone with its commit.

    Raises:
        NotFound: the project has none with this id.
        Conflict: it is not complete.
    """
    upload = find(session, project_id, upload_id, lock=True)
    if upload.digest is None or upload.size_bytes is None:
        size = "an unknown number of" if upload.size_bytes is None else upload.size_bytes
        raise Conflict(
            f"the upload is not complete: {offset_of(upload)} of {size} bytes are there",
            param="upload",
            hint=f"go on with PATCH /v1/uploads/{upload_id}; if all bytes are there, say `Upload-Complete: ?1`",
        )
    session.delete(upload)
    session.flush()
    return Blob(upload.digest, upload.size_bytes), upload.name


def expire(session: Session) -> list[str]:
    """Forget every upload, of whatever project, whose time is over; their ids. Their partials go once this is committed."""
    gone = session.execute(
        delete(Upload).where(Upload.expires_at <= db_now(), _free()).returning(Upload.id, Upload.digest),
        execution_options={"synchronize_session": False},
    ).all()
    for id_, digest in gone:
        _forget_bytes(session, id_, digest)
    return [id_ for id_, _ in gone]


# --- the request that appends


def claim(session: Session, project_id: str, upload_id: str, lease_seconds: float) -> Upload:
    """Become the one request that appends; the row's `appends` is the number that the others here must name.

    Raises:
        NotFound: the project has none with this id.
        Conflict: it is complete, or another request appends.
    """
    claimed = session.scalars(
        update(Upload)
        .where(*_of(project_id, upload_id), Upload.digest.is_(None), _free())
        .values(lease_expires_at=db_now(lease_seconds), appends=Upload.appends + 1)
        .returning(Upload),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()
    if claimed is not None:
        return claimed
    upload = find(session, project_id, upload_id)
    if upload.digest is not None:
        raise Conflict(
            "the upload is complete already",
            hint="make a model or a dataset of it",
            headers=headers(offset_of(upload), upload.size_bytes, complete=True),
        )
    raise Conflict(
        "another request appends to this upload",
        hint="wait for it to end, then ask for the offset",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def renew(
    session: Session, project_id: str, upload_id: str, number: int, offset_bytes: int, lease_seconds: float
) -> bool:
    """Hold on, and write down how far it is; False where the hold is lost."""
    return _write(
        session,
        project_id,
        upload_id,
        number,
        offset_bytes=offset_bytes,
        lease_expires_at=db_now(lease_seconds),
    )


def end(session: Session, project_id: str, upload_id: str, number: int, offset_bytes: int) -> bool:
    """Let another request go on from `offset_bytes`; False where the hold is lost."""
    return _write(session, project_id, upload_id, number, offset_bytes=offset_bytes, lease_expires_at=None)


def complete(session: Session, project_id: str, upload_id: str, number: int, blob: Blob) -> bool:
    """All of it is there, as a blob; False where the hold is lost, or the upload gone."""
    return _write(
        session,
        project_id,
        upload_id,
        number,
        offset_bytes=blob.size_bytes,
        size_bytes=blob.size_bytes,
        digest=blob.digest,
        lease_expires_at=None,
    )


def discard(session: Session, project_id: str, upload_id: str, number: int, digest: str | None) -> None:
    """Forget an upload that turned out wrong; `digest`: the blob that was made of it already."""
    gone = session.scalar(
        delete(Upload).where(*_held(project_id, upload_id, number)).returning(Upload.id),
        execution_options={"synchronize_session": False},
    )
    if gone is not None:
        _forget_bytes(session, upload_id, digest)


def headers(offset_bytes: int, size_bytes: int | None, *, complete: bool) -> dict[str, str]:
    """What an answer says of an upload's progress, in the fields of the IETF's draft."""
    said = {"Upload-Offset": str(offset_bytes), "Upload-Complete": "?1" if complete else "?0"}
    if size_bytes is not None:
        said["Upload-Length"] = str(size_bytes)
    return {**said, "Cache-Control": "no-store"}


def _write(session: Session, project_id: str, upload_id: str, number: int, **values: object) -> bool:
    statement = (
        update(Upload)
        .where(*_held(project_id, upload_id, number))
        .values(expires_at=_expiry(), **values)
        .returning(Upload.id)
    )
    return session.scalar(statement, execution_options={"synchronize_session": False}) is not None


def _forget_bytes(session: Session, upload_id: str, digest: str | None) -> None:
    after_commit(session, get_storage().partial(upload_id).abort)
    if digest is not None:
        release(session, blobs=[digest])


def _expiry() -> db_now:
    return db_now(get_settings().upload_hours * 3600)


def _of(project_id: str, upload_id: str) -> tuple[ColumnElement[bool], ...]:
    return Upload.id == upload_id, Upload.project_id == project_id, Upload.expires_at > db_now()


def _held(project_id: str, upload_id: str, number: int) -> tuple[ColumnElement[bool], ...]:
    return (
        Upload.id == upload_id,
        Upload.project_id == project_id,
        Upload.appends == number,
        Upload.digest.is_(None),
    )


def _free() -> ColumnElement[bool]:
    return or_(Upload.lease_expires_at.is_(None), Upload.lease_expires_at <= db_now())

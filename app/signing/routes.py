"""`/signing-keys`: the public keys that bundles are verified with. Private halves are not opened here."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.auth.principal import Reader
from app.auth.routing import SecuredRoute
from app.config import get_settings
from app.errors import Unavailable
from app.http.paging import Page
from app.signing.keys import noted_keys
from app.signing.signatures import ALGORITHM, BadKey, pem

router = APIRouter(tags=["signing"], route_class=SecuredRoute)


class SigningKeyAnswer(BaseModel):
    """The public half of a key that bundles are or were signed with."""

    id: str = Field(description="As `key` of a bundle's `manifest.sig.json` names it.")
    algorithm: str = Field(description="Always `ed25519`.")
    public_key: str = Field(description="In PEM: what `burnish check --trust` and `openssl` read.")
    in_use: bool = Field(
        description="Whether bundles are signed with it now: the newest that is not retired."
    )
    created_at: str | None = Field(description="RFC 3339, UTC; null: nobody noted it.")
    retired_at: str | None = Field(
        description="When its private half was deleted; what it signed before holds on. Null: it was not."
    )


@router.get("/signing-keys")
def list_signing_keys(principal: Reader) -> Page[SigningKeyAnswer]:
    """The installation's keys, the oldest first, retired ones included; none where bundles are not signed.

    The list is what this service's `BURNISH_SIGNING_DIR` notes (`*.json`).
    """
    try:
        keys = noted_keys(get_settings().signing_path)
    except BadKey as error:
        raise Unavailable(
            f"the notes of signing keys cannot be read: {error}",
            hint="see `burnish keys signing list` on the service's machine",
        ) from error
    newest = next((key.id for key in reversed(keys) if key.retired_at is None), None)
    items: list[dict[str, Any]] = [
        {
            "id": key.id,
            "algorithm": ALGORITHM,
            "public_key": pem(key.public),
            "in_use": key.id == newest,
            "created_at": key.created_at,
            "retired_at": key.retired_at,
        }
        for key in keys
    ]
    return Page(items=[SigningKeyAnswer(**item) for item in items], next_cursor=None)

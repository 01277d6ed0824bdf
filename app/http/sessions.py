"""The session dependencies of sync routes: they commit before the answer leaves."""

from typing import Annotated

from fastapi import Depends
from sqlalchemy.orm import Session

from app.db import read_session, write_session

ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]

"""What the collector remembers. Both belong to the installation: blobs are shared by every project."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class TreeFile(Base):
    """One file of a tree that a row names: trees never change, so each is read once and found by its files from then on."""

    __tablename__ = "tree_files"

    tree: Mapped[str] = mapped_column(String(64), primary_key=True)
    file: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class Pause(Base):
    """Until when no stored file is removed, while somebody copies database and store."""

    __tablename__ = "pauses"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    until: Mapped[datetime]

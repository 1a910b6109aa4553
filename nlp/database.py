# SPDX-License-Identifier: Apache-2.0
"""SQLite files of a known format: their tables, and transactions."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Literal


class FormatError(ValueError):
    """A database of another program or of another version of the format."""


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, for connections with isolation_level None; takes the writer's lock."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def prepare(
    db: sqlite3.Connection, schema: str, version: int, synchronous: Literal["NORMAL", "FULL"]
) -> None:
    """Puts a database into write-ahead mode and makes its tables if it is empty.

    Args:
      schema: statements, separated by semicolons; with IF NOT EXISTS where several processes
        may open the file at once.
      version: number of the format, kept in the file.
      synchronous: FULL survives a power cut; NORMAL a killed process only.

    Raises:
      FormatError: the file has other tables or another version.
    """
    # Tables first: another process may be making them, and sets the version together with them.
    tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise FormatError(f"has format {found}; this is {version}")
    if found == 0 and tables:
        raise FormatError(f"is another program's database; this is format {version}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    if found == version:
        return
    with transaction(db):
        for statement in filter(str.strip, schema.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={version}")

# SPDX-License-Identifier: Apache-2.0
"""A durable store of answers, keyed by content, that several runs may share.

One SQLite file in write-ahead mode. Every answer is one transaction, so a killed process loses at
most answers that had not arrived. A request is claimed before it is sent; other processes then wait
for its answer instead of asking again. A claim counts only while its owner lives: each process
holds a file lock that the system drops when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Literal

from core import files
from nlp import database
from nlp.evaluation.records import Response

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, response TEXT NOT NULL, created REAL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, response TEXT NOT NULL, created REAL);
"""
Claim = Literal["mine", "answered", "busy"]


class CacheError(ValueError):
    """A file that is not a cache of this version, or is damaged."""


class Cache:
    """Answers by key. Use as a context manager; not for several threads at once."""

    def __init__(self, path: str | os.PathLike[str]):
        """Opens or creates a cache.

        Raises:
          CacheError: the file is something else, or damaged.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._owners = self.path.with_name(self.path.name + ".owners")
        self._owners.mkdir(exist_ok=True)
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._alive: dict[str, float] = {}
        self._stack = contextlib.ExitStack()
        try:
            self._db = sqlite3.connect(
                self.path, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._stack.callback(self._db.close)
            # NORMAL is safe against kill; see the module.
            database.prepare(self._db, _SCHEMA, SCHEMA_VERSION, "NORMAL")
        except (sqlite3.DatabaseError, database.FormatError) as error:
            self._stack.close()
            raise CacheError(f"{self.path} is not a usable cache: {error}") from error
        self._stack.enter_context(files.exclusive_lock(self._lock_file(self._owner)))

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back claims and closes the file."""
        with contextlib.suppress(sqlite3.ProgrammingError):
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
        self._stack.close()
        self._lock_file(self._owner).unlink(missing_ok=True)

    def get(self, key: str) -> Response | None:
        """The stored answer, or None."""
        row = self._db.execute("SELECT response FROM answers WHERE key = ?", (key,)).fetchone()
        return Response.from_json(row[0]) if row else None

    def has(self, key: str) -> bool:
        """Whether there is an answer."""
        query = "SELECT 1 FROM answers WHERE key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def failure(self, key: str) -> Response | None:
        """The last failure of a request that has no answer, or None."""
        row = self._db.execute("SELECT response FROM failures WHERE key = ?", (key,)).fetchone()
        return Response.from_json(row[0]) if row else None

    def claim(self, key: str) -> Claim:
        """Reserves the right to ask: "mine", or somebody has "answered" or is "busy" asking."""
        if self.has(key):  # the usual case of a resumed run needs no write lock
            return "answered"
        with database.transaction(self._db):
            if self.has(key):
                return "answered"
            row = self._db.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
            if row and (row[0] == self._owner or self._lives(row[0])):
                return "busy"
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, self._owner))
            return "mine"

    def release(self, key: str) -> None:
        """Gives a claim back without an answer."""
        query = "DELETE FROM claims WHERE key = ? AND owner = ?"
        self._db.execute(query, (key, self._owner))

    def put(self, key: str, response: Response) -> None:
        """Stores an answer for good; the first answer to a key stays.

        Raises:
          ValueError: the response is no answer. Errors are never stored as answers.
        """
        if response.status != "ok":
            raise ValueError(f"only answers are stored, got status {response.status!r}")
        with database.transaction(self._db):
            values = (key, response.to_json(), time.time())
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", values)
            self._db.execute("DELETE FROM claims WHERE key = ?", (key,))
            self._db.execute("DELETE FROM failures WHERE key = ?", (key,))

    def put_failure(self, key: str, response: Response) -> None:
        """Notes why there is no answer; the next run asks again."""
        with database.transaction(self._db):
            values = (key, response.to_json(), time.time())
            self._db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", values)
            self._db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def _lock_file(self, owner: str) -> Path:
        return self._owners / f"{owner}.lock"

    def _lives(self, owner: str) -> bool:
        """Whether the process that holds a claim still runs; asked at most every half second."""
        if time.monotonic() - self._alive.get(owner, -1.0) < 0.5:
            return True
        path = self._lock_file(owner)
        if not path.exists():
            return False
        try:
            with files.exclusive_lock(path):
                pass
        except files.FileInUseError:
            self._alive[owner] = time.monotonic()
            return True
        path.unlink(missing_ok=True)
        return False

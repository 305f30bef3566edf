"""A database whose disk is full: reads go on, a save is never taken for done, and sessions end.

The disk of SQLite is full by its own limit. Those of the servers are small file systems in memory,
which only root may mount.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_sessionstores.exceptions import StorageFull
from django_sessionstores.inventory import Inventory
from tests import cases, disks
from tests.services import MariaDB, PostgreSQL

ROWS = [
    cases.Case(*row)
    for database in (cases.SQLITE, cases.POSTGRESQL, cases.MARIADB)
    for row in (("db", None, database), ("cache", cases.DATABASE_CACHE, database))
]


class SmallPostgreSQL(PostgreSQL):
    """A server with all of its files on a small disk."""

    @property
    def disk(self) -> Path:
        return self.folder

    def prepare(self) -> None:
        mount(self, megabytes=100)
        super().prepare()

    def stop(self) -> None:
        with unmounted(self):
            super().stop()


class SmallMariaDB(MariaDB):
    """A server with its tables on a small disk. Without room for its log, it stops."""

    @property
    def disk(self) -> Path:
        return self.folder / "data" / self.DATABASE

    def prepare(self) -> None:
        super().prepare()
        self.disk.mkdir()
        mount(self, megabytes=20)
        (self.disk / "db.opt").write_text("default-character-set=utf8mb4\n")

    def stop(self) -> None:
        with unmounted(self):
            super().stop()


def mount(server: Any, megabytes: int) -> None:
    with disks.skipping():
        disks.mount_memory(server.disk, f"{megabytes}m", server.account())


@contextmanager
def unmounted(server: Any) -> Iterator[None]:
    """Remove the disk of a server that is stopped in the block."""
    folder = server._folder
    disk = None if folder is None else server.disk
    yield
    if disk is not None:
        disks.unmount(disk)
        shutil.rmtree(folder, ignore_errors=True)


SERVERS: dict[Any, Callable[[], Any]] = {PostgreSQL: SmallPostgreSQL, MariaDB: SmallMariaDB}


@pytest.fixture(params=ROWS, ids=lambda case: case.id)
def site(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    server = request.param.database.server
    private = {server: SERVERS[server]} if server else False
    with (
        django_db_blocker.unblock(),
        cases.activate(request.param, private=private) as engine,  # type: ignore[arg-type]
    ):
        yield engine


def full_disk(engine: cases.Engine) -> AbstractContextManager[None]:
    return disks.full(engine.server().disk) if engine.servers else _full_sqlite(engine)


@contextmanager
def _full_sqlite(engine: cases.Engine) -> Iterator[None]:
    with connections[engine.database].cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        (pages,) = cursor.fetchone()
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        yield
        cursor.execute("PRAGMA max_page_count = 1073741823")


def saved(engine: cases.Engine, **data: Any) -> Any:
    session = engine.SessionStore()
    session.update({"filler": secrets.token_hex(700), **data})
    session.save()
    return session


def is_saved(session: Any, name: str) -> bool:
    """Save a session with another kilobyte, and return whether there was room for it."""
    session[name] = secrets.token_hex(700)
    try:
        session.save()
    except StorageFull:
        return False
    return True


def test_sessions_are_read_and_ended_on_a_full_disk(site: cases.Engine) -> None:
    """What their owner wants most is to log out, and what the operator needs is room."""
    kept, left, ended = (saved(site, color=color) for color in ("blue", "red", "green"))
    with full_disk(site):
        # There is room in pages that have been there before.
        refused = site.SessionStore()
        while is_saved(refused, "filler"):
            refused = site.SessionStore()
        assert dict(site.SessionStore(refused.session_key).items()) == {}
        more = is_saved(kept, "more")
        assert ("more" in site.SessionStore(kept.session_key)) is more
        assert site.SessionStore(kept.session_key)["color"] == "blue"
        # A logout.
        session = site.SessionStore(left.session_key)
        assert session["color"] == "red"
        session.flush()
        assert dict(site.SessionStore(left.session_key).items()) == {}
        # By its key only.
        site.SessionStore(ended.session_key).delete()
        assert dict(site.SessionStore(ended.session_key).items()) == {}
        assert Inventory().count() > 0
        assert Inventory().purge() == 0
    assert is_saved(kept, "after")
    assert "after" in site.SessionStore(kept.session_key)
    with full_disk(site):
        assert Inventory().end_everything() > 0
        assert Inventory().count() == 0

"""A disk that is full: what is on it stays, and sessions can end."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from django_sessionstores.backends.file import SessionStore, session_folder
from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import StorageFull, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.testing import now, successor
from tests.disks import tiny_disk
from tests.storages.files.kinds import FILES, KINDS, storage_on
from tests.storages.records import HOUR, make_record

ID = "3f" * 20
OTHER_ID = "3f" + "ab" * 19
THIRD_ID = "a0" * 20


@contextlib.contextmanager
def without_room(monkeypatch: pytest.MonkeyPatch, error: int) -> Iterator[None]:
    """No file or folder can be made, and none can grow. What is there can be overwritten."""
    opened, written, made = os.open, os.write, os.mkdir

    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(error, os.strerror(error))

    def open_existing(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(path).parent.is_dir() and not os.path.lexists(path):
            refuse()
        return opened(path, flags, *args, **options)

    def overwrite(fd: int, data: Any) -> int:
        if os.lseek(fd, 0, os.SEEK_CUR) + len(data) > os.fstat(fd).st_size:
            refuse()
        return written(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_existing)
        patch.setattr(os, "write", overwrite)
        patch.setattr(os, "mkdir", refuse)
        yield
    assert (os.open, os.write, os.mkdir) == (opened, written, made)


@contextlib.contextmanager
def full(how: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill the disk of a folder for as long as the context lasts."""
    if how in ("ENOSPC", "EDQUOT"):
        with without_room(monkeypatch, getattr(errno, how)):
            yield
        return
    fillers = place / "fillers"
    fillers.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (fillers / str(number)).write_bytes(b"x" * 4096 if how == "blocks" else b"")
    yield
    for each in fillers.iterdir():
        each.unlink()
    fillers.rmdir()


@pytest.fixture(params=["ENOSPC", "EDQUOT", "blocks", "inodes"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(how: str, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    if how in ("ENOSPC", "EDQUOT"):
        place.mkdir()
        yield place
    else:
        options = "256k" if how == "blocks" else "16m,nr_inodes=60"
        with tiny_disk(place, options):
            yield place


def index_in(place: Path) -> set[str]:
    """Return the ids that the index of users has."""
    return {path.name[-40:] for path in place.rglob("users/??/*")}


@KINDS
def test_nothing_can_be_saved_and_all_that_is_there_can_end(
    kind: str, how: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logout that a full disk refuses would leave the session to whoever has the cookie."""
    with storage_on(kind, place) as storage:
        first, second, expired = (
            make_record(ID, user_id="7", expires=now() + HOUR),
            make_record(OTHER_ID, user_id="7", expires=now() + HOUR),
            make_record(THIRD_ID, user_id="7", expires=now() + 1),
        )
        for each in (first, second, expired):
            storage.create(each, now())
        later = now() + 2
        with full(how, place, monkeypatch):
            big = successor(first, payload=bytes(100_000))
            for write in (
                lambda: storage.create(make_record("b1" * 20, user_id="8"), later),
                lambda: storage.update(big, first, later),
            ):
                with pytest.raises(StorageFull, match=r"see .*is full .*Make room"):
                    write()
            assert storage.read(ID) == first
            assert index_in(place) <= {ID, OTHER_ID, THIRD_ID}
            assert not list(place.rglob(".new"))

            assert storage.touch(first, now() + 2 * HOUR, later, later)
            tombstone = make_tombstone(ID, State.SUPERSEDED, now=later, seconds=60, of=first)
            assert storage.update(tombstone, first, later) == Updated(tombstone)
            assert storage.purge(later, 10) == 1
            assert storage.delete(OTHER_ID)
            assert storage.read(OTHER_ID) is None
            assert storage.count(later, None) == storage.count(later, "7") == 0
            assert storage.scan("", 10, "7").records == []
            assert storage.purge(later + 2 * HOUR, 10) == 1
        assert index_in(place) == set()
        storage.create(make_record("b1" * 20, user_id="8"), later)


@pytest.mark.parametrize("is_indexed", [True, False], ids=["indexed", "not indexed"])
def test_the_sessions_of_a_user_can_end(
    how: str, place: Path, monkeypatch: pytest.MonkeyPatch, is_indexed: bool
) -> None:
    """Even if the index, which has no room, was never made, or lost."""
    storage = FileStorage(place / "sessions")
    for session_id in (ID, OTHER_ID, THIRD_ID):
        storage.create(make_record(session_id, user_id="7"), now())
    if not is_indexed:
        for each in (place / "sessions" / "users").rglob("*"):
            if each.is_file():
                each.unlink()
    with full(how, place, monkeypatch):
        found = [each.id for each in storage.scan("", 10, "7").records]
        assert set(storage.end_many(found)) == {ID, OTHER_ID, THIRD_ID}
        assert storage.count(now(), None) == 0


def test_a_purge_clears_what_killed_processes_have_left(
    how: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of a session that is nowhere, in whose shard there is nothing else."""
    storage = FileStorage(place / "sessions")
    storage.create(make_record(ID, user_id="7"), now())
    storage._index.add("7", THIRD_ID)
    (place / "sessions" / ID[:2] / ".new").write_bytes(b"half a record")
    with full(how, place, monkeypatch):
        assert storage.purge(now(), 10) == 0
        assert index_in(place) == {ID}
        assert not list(place.rglob(".new"))


@pytest.mark.parametrize("name", ["file", "cache", "cached_db"])
@pytest.mark.django_db
def test_a_user_can_sign_out(
    name: str, how: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody can sign in, except with ``cached_db``, whose cache is full."""
    with override_settings(
        SESSION_ENGINE=f"django_sessionstores.backends.{name}",
        SESSION_FILE_PATH=place,
        CACHES={"default": {"BACKEND": FILES, "LOCATION": place}},
    ):
        user = get_user_model().objects.create(username="ada")
        client, other = Client(), Client()
        client.force_login(user)
        key = client.session.session_key
        with full(how, place, monkeypatch):
            if name == "cached_db":
                other.force_login(user)
                other.logout()
            else:
                with pytest.raises(StorageFull):
                    other.force_login(user)
            client.logout()
            assert Inventory().count(user=user) == 0
        assert type(client.session)(key).load() == {}


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can grow beyond that: the other way for a write to find no space."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _save_in_vain(session: Any, error: type[Exception] = StorageUnavailable) -> None:
    session["blob"] = os.urandom(100_000)
    with pytest.raises(error, match="SESSION_FILE_PATH"):
        session.save()


def test_a_full_disk_is_an_error_and_the_old_session_stays(tmp_path: Path) -> None:
    """On a real one: a save that is reported as done, or an old session that was cut, is lost
    data. And once there is space again, saving works."""
    disk = tmp_path / "disk"
    with tiny_disk(disk), override_settings(SESSION_FILE_PATH=disk):
        session = SessionStore()
        session["name"] = "Ada"
        session.save()
        _save_in_vain(session, StorageFull)
        _save_in_vain(SessionStore(), StorageFull)

        assert SessionStore(session.session_key).load() == {"name": "Ada"}
        assert {path.name for path in session_folder().glob("??/[0-9a-f]*")} == {session.session_id}
        assert not list(session_folder().glob("*/.new"))
        session["blob"] = b""
        session.save()
        assert SessionStore(session.session_key)["blob"] == b""


def test_a_file_that_may_not_grow_is_an_error_and_the_old_session_stays(tmp_path: Path) -> None:
    """The same where no file system can be mounted."""
    with override_settings(SESSION_FILE_PATH=tmp_path):
        session = SessionStore()
        session["name"] = "Ada"
        session.save()
        with file_size_limit(8192):
            _save_in_vain(session)

        assert SessionStore(session.session_key).load() == {"name": "Ada"}
        assert not list(session_folder().glob("*/.new"))

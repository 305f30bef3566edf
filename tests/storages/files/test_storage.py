"""The file storage: what it leaves on the disk, what it asks of it, and what it survives."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from django.test import Client, override_settings

from django_sessionstores.backends.file import SessionStore, session_folder
from django_sessionstores.core.records import (
    HEAD_SIZE,
    ID_LENGTH,
    ID_SIZE,
    START_SIZE,
    Record,
    State,
    make_tombstone,
    pack,
)
from django_sessionstores.exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from django_sessionstores.storages.base import Conflict, Gone, Taken, Updated
from django_sessionstores.storages.caches.file_cache import from_cache
from django_sessionstores.storages.files import disk, locks, purge, record_file
from django_sessionstores.storages.files import folder as folders
from django_sessionstores.storages.files import storage as storages
from django_sessionstores.storages.files.index import UserIndex
from django_sessionstores.storages.files.storage import FileStorage
from tests import ROOT
from tests.disks import tiny_disk
from tests.storages.files import worker as file_worker

NOW = 1_800_000_000_000
HOUR = 3_600_000
ID = "3f" * 20
OTHER_ID = "3f" + "ab" * 19
ELSEWHERE_ID = "a0" * 20

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and signals")


def live(session_id: str = ID, **fields: Any) -> Record:
    return Record(
        id=session_id,
        **{"payload": b"encrypted", "user_id": "7", "expires": NOW + HOUR, "created": NOW} | fields,
    )


@pytest.fixture
def engine_folder(tmp_path: Path) -> Iterator[Path]:
    """Where the engine keeps its records."""
    with override_settings(SESSION_FILE_PATH=tmp_path):
        yield session_folder()


def path_of(folder: Path, session_id: str = ID) -> Path:
    return folder / session_id[:2] / session_id


SHARDS = "[0-9a-f][0-9a-f]"


def records_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(SHARDS + "/*") if not path.name.startswith(".")}


def left_in(folder: Path) -> list[str]:
    """Return what is there besides the index of users, which says that it is complete, and has
    the marks of sites."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return sorted(each for each in found if not file_worker.is_of_index(each))


# The contract ---------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_stored(storage: FileStorage) -> None:
    """Every field counts: a lost user id hides a session from its owner's list."""
    record = live(version=3, last_activity=NOW, ip="192.0.2.1", user_agent="Browser")

    assert storage.create(record, NOW) == Updated(record)

    assert storage.read(ID) == record


@pytest.mark.parametrize("size", [999, 1000, 1001, 2000, 5000])
def test_a_file_of_any_size_is_read_to_its_end(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A read that stops at its buffer would turn a large session into an unreadable one."""
    monkeypatch.setattr(disk, "_READ_SIZE", 1000)
    # The file has room for the id of a successor besides.
    around = len(pack(live(payload=bytes(size)))) - size + ID_SIZE
    record = live(payload=os.urandom(size - around))
    storage.create(record, NOW)
    assert path_of(folder).stat().st_size == size

    assert storage.read(ID) == record


def test_an_id_is_given_once(storage: FileStorage) -> None:
    """Otherwise a new session would take the place of another."""
    storage.create(live(), NOW)

    assert storage.create(live(payload=b"intruder"), NOW) == Taken()
    assert storage.read(ID) == live()


def test_an_update_replaces_the_version_it_is_based_on(storage: FileStorage) -> None:
    """A longer record and then a shorter one: nothing of the previous may remain."""
    first, second, third = (
        live(),
        live(version=2, payload=b"much longer" * 1000),
        live(version=3, payload=b"short"),
    )
    storage.create(first, NOW)

    assert storage.update(second, first, NOW) == Updated(second)
    assert storage.update(third, second, NOW) == Updated(third)

    assert storage.read(ID) == third


def test_an_update_of_another_version_is_a_conflict_with_the_current_record(
    storage: FileStorage,
) -> None:
    """The caller merges with what it is given: a lost update if it were anything less."""
    current = live(version=2, payload=os.urandom(200_000))
    storage.create(current, NOW)

    assert storage.update(live(version=2), live(version=1), NOW) == Conflict(current)
    assert storage.read(ID) == current


@pytest.mark.parametrize("neighbour", [OTHER_ID, ELSEWHERE_ID])
def test_an_update_of_an_absent_record_brings_nothing_back(
    storage: FileStorage, folder: Path, neighbour: str
) -> None:
    """Otherwise a save that comes after a logout would undo it."""
    storage.create(live(neighbour), NOW)

    assert storage.update(live(version=2), live(), NOW) == Gone()
    assert records_in(folder) == {neighbour}


def test_an_update_of_an_expired_record_is_refused(storage: FileStorage) -> None:
    """An expired session is over, though its file is still there."""
    record = live(expires=NOW)
    storage.create(record, NOW - HOUR)

    assert storage.update(live(version=2), record, NOW) == Gone()


def test_a_tombstone_takes_the_place_of_the_record(storage: FileStorage) -> None:
    """A request with the old key must learn that it was superseded, and must not get any data."""
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=60, of=live())
    storage.create(live(), NOW)

    assert storage.update(tombstone, live(), NOW) == Updated(tombstone)

    assert storage.read(ID) == tombstone


def test_a_tombstone_is_in_the_way_of_every_update(storage: FileStorage) -> None:
    """Also of one whose base was seen while the tombstone was being written over it: version of
    the one, state of the other."""
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=60, of=live())
    storage.create(live(), NOW)
    storage.update(tombstone, live(), NOW)

    for base in (live(), live(version=0)):
        assert storage.update(live(version=2), base, NOW) == Conflict(tombstone)


def test_a_rotation_leaves_the_new_record_and_a_tombstone(
    storage: FileStorage, folder: Path
) -> None:
    """Anything more on the disk would be a session that nobody can end."""
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=60, of=live())
    storage.create(live(), NOW)

    assert storage.rotate(live(ELSEWHERE_ID), live(), tombstone, NOW) == Updated(live(ELSEWHERE_ID))

    assert storage.read(ELSEWHERE_ID) == live(ELSEWHERE_ID)
    assert storage.read(ID) == tombstone
    assert records_in(folder) == {ID, ELSEWHERE_ID}


def test_a_touch_moves_the_times_and_nothing_else(storage: FileStorage) -> None:
    """It writes into the record in place: a byte too far and the payload is lost."""
    storage.create(live(), NOW)

    assert storage.touch(live(), NOW + 2 * HOUR, NOW + 5, NOW)

    assert storage.read(ID) == live(expires=NOW + 2 * HOUR, last_activity=NOW + 5)


def test_a_touch_shortens_nothing(storage: FileStorage) -> None:
    """Of two requests the slower one must not take back what the other has granted."""
    record = live(last_activity=NOW)
    storage.create(record, NOW)

    storage.touch(record, NOW + 1, NOW - 1, NOW)

    assert storage.read(ID) == record


@pytest.mark.parametrize(
    "stored", [live(version=2), live(expires=NOW), live(ELSEWHERE_ID)], ids=["newer", "over", "no"]
)
def test_a_touch_of_anything_but_its_version_does_nothing(
    storage: FileStorage, stored: Record
) -> None:
    """A touch that brings a session back, or one that outlives its end, undoes a logout."""
    storage.create(stored, NOW)

    assert not storage.touch(live(), NOW + 2 * HOUR, NOW, NOW)

    assert storage.read(stored.id) == stored
    assert stored.id == ID or storage.read(ID) is None


def test_a_deleted_record_is_gone(storage: FileStorage, folder: Path) -> None:
    """A logout; the second time, and where nothing was ever stored, it has nothing to do."""
    storage.create(live(), NOW)
    storage.delete(ID)
    storage.delete(ID)
    storage.delete(ELSEWHERE_ID)

    assert storage.read(ID) is None
    assert records_in(folder) == set()


@pytest.mark.parametrize("cut", [0, 1, HEAD_SIZE - 1, HEAD_SIZE, -1])
def test_a_cut_record_is_unreadable_not_absent(
    storage: FileStorage, folder: Path, cut: int
) -> None:
    """After a power failure, say: absent would take the cookie away, with the reason."""
    storage.create(live(), NOW)
    path = path_of(folder)
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(UnreadablePayload):
        storage.read(ID)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "", "a/b", "a\0b", "A" * 40, "\u00e4" * 40, "a" * 39]
)
def test_no_id_names_a_file_outside_the_folder(storage: FileStorage, name: str) -> None:
    """Ids are digests. Should a mistake let something else through, it ends here."""
    with pytest.raises(ValueError, match="not a session id"):
        storage.read(name)


# On the disk ----------------------------------------------------------------------------------


@posix
def test_only_the_owner_has_access(storage: FileStorage, folder: Path) -> None:
    """Whatever the umask: the system's temp folder is everyone's."""
    umask = os.umask(0)
    try:
        storage.create(live(), NOW)
        storage.update(live(version=2), live(), NOW)
    finally:
        os.umask(umask)

    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_dir()} == {
        0o700
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob(SHARDS + "/*")} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_are_named_by_the_id_not_by_the_key(engine_folder: Path) -> None:
    """A file name is in every directory listing and backup log, and a key is a login."""
    session = SessionStore()
    session["word"] = "confidential"
    session.save()

    assert records_in(engine_folder) == {session.session_id}
    contents = path_of(engine_folder, session.session_id).read_bytes()
    assert session.session_key not in str(engine_folder.rglob("*"))
    assert session.session_key.encode() not in contents
    assert b"confidential" not in contents


def test_reading_creates_nothing(storage: FileStorage, folder: Path) -> None:
    """Only a new session creates a folder. Otherwise bots could create folders."""
    assert storage.read(ID) is None
    assert storage.update(live(version=2), live(), NOW) == Gone()
    assert not storage.touch(live(), NOW + HOUR, NOW, NOW)
    storage.delete(ID)
    assert storage.purge(NOW, 10) == 0
    assert storage.reindex() == 0

    assert not folder.exists()


def assert_out_of_reach(storage: FileStorage) -> None:
    """Nothing is answered as if there were no sessions, and nothing is begun anew."""
    for operation in (
        lambda: storage.read(ID),
        lambda: storage.create(live(OTHER_ID), NOW),
        lambda: storage.update(live(version=2), live(), NOW),
        lambda: storage.touch(live(), NOW + 2 * HOUR, NOW, NOW),
        lambda: storage.delete(ID),
        lambda: storage.scan("", 10, None),
        lambda: storage.scan("", 10, "7"),
        lambda: storage.count(NOW, None),
        lambda: storage.purge(NOW, 10),
        lambda: storage.reindex(),
        lambda: storage.index_is_complete(),
    ):
        with pytest.raises(StorageUnavailable, match=r"SESSION_FILE_PATH.*Mount"):
            operation()


def test_a_folder_that_is_moved_away_is_an_outage(storage: FileStorage, folder: Path) -> None:
    """A disk that is unmounted leaves its mount point: empty is not the same as signed out."""
    storage.create(live(), NOW)
    folder.rename(folder.with_name("elsewhere"))

    assert_out_of_reach(storage)

    assert not folder.exists()
    folder.with_name("elsewhere").rename(folder)
    assert storage.read(ID) == live()


def test_a_process_that_has_only_read_knows_the_folder(storage: FileStorage, folder: Path) -> None:
    """Whether it has found a session there, or that there is none."""
    storage.create(live(), NOW)
    for session_id in (ID, OTHER_ID):
        reader = FileStorage(folder)
        reader.read(session_id)
        folder.rename(folder.with_name("elsewhere"))
        assert_out_of_reach(reader)
        folder.with_name("elsewhere").rename(folder)


def test_the_first_folder_may_be_made_at_the_same_moment(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another request, after this one has found that there is none yet."""
    look = os.stat

    def look_early(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        try:
            return look(path, *args, **kwargs)
        except FileNotFoundError:
            monkeypatch.undo()
            storage.create(live(), NOW)
            raise

    monkeypatch.setattr(os, "stat", look_early)
    assert storage.read(OTHER_ID) is None
    assert storage.read(ID) == live()


def test_without_the_folder_around_it_every_process_knows(tmp_path: Path) -> None:
    """One that has just started, too: what SESSION_FILE_PATH names has to be there."""
    assert_out_of_reach(FileStorage(tmp_path / "unmounted" / "sessions"))


def test_a_folder_whose_sessions_are_removed_on_purpose(storage: FileStorage, folder: Path) -> None:
    """If an operator follows the message, the site goes on without a restart."""
    storage.create(live(), NOW)
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)

    assert storage.read(ID) is None
    assert storage.create(live(version=2), NOW) == Updated(live(version=2))


def test_temporary_files_may_be_removed(folder: Path) -> None:
    """The system's cleaning job must not take the site down until somebody comes."""
    storage = FileStorage(folder, is_temporary=True)
    storage.create(live(), NOW)
    shutil.rmtree(folder)

    assert storage.read(ID) is None
    storage.create(live(version=2), NOW)

    assert storage.read(ID) == live(version=2)


@pytest.mark.parametrize("path", ["set", None])
def test_which_files_are_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    """Those for which the project has chosen no place."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with override_settings(SESSION_FILE_PATH=path and tmp_path):
        storage = SessionStore.make_storage()
        assert storage.create(live(), NOW) == Updated(live())
        shutil.rmtree(storage._folder.path)
        if path is None:
            assert storage.read(ID) is None
        else:
            assert_out_of_reach(storage)


@pytest.mark.parametrize(
    ("middleware", "status"),
    [
        ("django.contrib.sessions.middleware.SessionMiddleware", 500),
        ("django_sessionstores.middleware.SessionMiddleware", 503),
    ],
)
@pytest.mark.parametrize("cache", [False, True], ids=["file", "cache"])
def test_nobody_is_signed_out_by_a_missing_folder(
    tmp_path: Path, cache: bool, middleware: str, status: int
) -> None:
    """Both middlewares delete the cookie of a session that has ended, and only of that."""
    mount, elsewhere = tmp_path / "mount", tmp_path / "elsewhere"
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    mount.mkdir()
    with override_settings(
        SESSION_ENGINE="django_sessionstores.backends." + ("cache" if cache else "file"),
        SESSION_FILE_PATH=mount,
        CACHES={"default": {"BACKEND": backend, "LOCATION": mount}},
        MIDDLEWARE=[middleware],
        ROOT_URLCONF="tests.urls",
    ):
        client = Client(raise_request_exception=False)
        assert client.get("/write/name/1/").status_code == 200
        mount.rename(elsewhere)
        mount.mkdir()  # As a mount point without its disk.

        for path in ("/read/", "/write/name/2/"):
            response = client.get(path)
            assert response.status_code == status
            assert not response.cookies
        stranger = Client(raise_request_exception=False)
        assert stranger.get("/write/name/1/").status_code == status

        mount.rmdir()
        elsewhere.rename(mount)
        assert client.get("/read/").json() == {"name": "1"}


@contextmanager
def as_another_user(rights: int = 0o555) -> Iterator[Path]:
    """Yield a folder with these rights, which belongs to another user than that of this process.

    Without more, all may read it, and only its owner may change it.
    """
    with TemporaryDirectory() as name:
        place = Path(name, "place")
        place.mkdir()
        Path(name).chmod(0o755)
        place.chmod(rights)
        is_root = os.geteuid() == 0
        if is_root:
            os.setresuid(65534, 65534, 0)
        try:
            yield place
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
            place.chmod(0o755)


@contextmanager
def storage_in(kind: str, place: Path) -> Iterator[FileStorage]:
    """Yield the storage of the engine, or of the cache, with its folder in ``place``."""
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    caches = {"default": {"BACKEND": backend, "LOCATION": place}}
    with override_settings(SESSION_FILE_PATH=place, CACHES=caches):
        yield SessionStore.make_storage() if kind == "file" else from_cache("default")


KINDS = pytest.mark.parametrize(
    "kind", ["file", "cache", "cache that is missing"], ids=["file", "cache", "missing"]
)


@posix
@KINDS
def test_a_folder_that_cannot_be_made_is_an_outage(kind: str) -> None:
    """Nobody knows whether there are sessions. A request must not delete their cookies."""
    with (
        as_another_user() as place,
        storage_in(kind, place / "cache" if "missing" in kind else place) as storage,
    ):
        for operation in (
            lambda: storage.read(ID),
            lambda: storage.scan("", 10, None),
            lambda: storage.count(NOW, "7"),
            lambda: storage.delete(ID),
            lambda: storage.touch(live(), NOW, NOW, NOW),
            lambda: storage.create(live(), NOW),
        ):
            with pytest.raises(StorageUnavailable, match=r"SESSION_FILE_PATH|LOCATION"):
                operation()
        assert f"may not write to {place}." in storage.write_obstacle()


@posix
@pytest.mark.parametrize("kind", ["file", "cache"])
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
def test_what_is_in_the_place_of_the_folder_is_an_outage(
    kind: str, is_link: bool, tmp_path: Path
) -> None:
    """A link may lead to a disk that is not mounted."""
    with storage_in(kind, tmp_path) as storage:
        place = Path(storage._folder.path)
        if is_link:
            place.symlink_to(tmp_path / "elsewhere")
        else:
            place.write_text("something else")
        for operation in (lambda: storage.read(ID), lambda: storage.create(live(), NOW)):
            with pytest.raises(StorageUnavailable, match=r"SESSION_FILE_PATH|LOCATION"):
                operation()
        assert f"{place} is not a folder." in storage.write_obstacle()
        place.unlink()
        assert storage.write_obstacle() == ""
        assert storage.read(ID) is None


def test_a_touch_does_not_wait_for_the_shard(storage: FileStorage) -> None:
    """A request that only reads its session must not queue behind those that save others."""
    storage.create(live(), NOW)
    with (
        storage._locks.hold(OTHER_ID),
        mock.patch.object(locks.time, "sleep", side_effect=AssertionError("waits")),
    ):
        assert storage.touch(live(), NOW + 2 * HOUR, NOW, NOW) is False
    assert storage.read(ID).expires == NOW + HOUR
    assert storage.touch(live(), NOW + 2 * HOUR, NOW, NOW) is True


def test_a_new_site_is_not_unreachable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its folder is there and empty: unknown keys have no session, and nobody is alarmed."""
    with override_settings(SESSION_FILE_PATH=tmp_path):
        assert SessionStore("a" * 32).load() == {}
        assert SessionStore.make_storage().scan("", 10, None).records == []
    assert caplog.records == []


def test_the_process_that_makes_the_folder_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that has just begun cannot know that the folder was moved."""
    with override_settings(SESSION_FILE_PATH=tmp_path):
        SessionStore().create()
        SessionStore().create()
        SessionStore.make_storage().create(live(), NOW)
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith(
        f"The folder {tmp_path}/django_sessionstores (see SESSION_FILE_PATH) was made for sessions"
    )


def test_nobody_is_told_of_new_folders_for_temporary_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with override_settings(SESSION_FILE_PATH=None):
        SessionStore().create()
    assert len([*tmp_path.iterdir()]) == 1
    assert caplog.records == []


def test_saves_leave_no_litter(storage: FileStorage, folder: Path) -> None:
    """Each file more than the sessions and one lock per shard would add up for ever."""
    storage.create(live(), NOW)
    for version in range(1, 5):
        storage.update(live(version=version + 1), live(version=version), NOW)
    storage.touch(live(version=5), NOW + 2 * HOUR, NOW, NOW)

    assert {path.name for path in (folder / "3f").iterdir()} == {ID, ".lock"}


def test_django_finds_its_own_files_beside_ours(tmp_path: Path) -> None:
    """Both engines use SESSION_FILE_PATH during a move from one to the other."""
    with override_settings(SESSION_FILE_PATH=tmp_path):
        SessionStore().create()

        assert [path.name for path in tmp_path.iterdir()] == ["django_sessionstores"]


def test_a_process_may_begin_while_the_disk_is_away(tmp_path: Path) -> None:
    """An outage like any other: it ends when the disk is mounted, without a restart."""
    place = tmp_path / "unmounted"
    with override_settings(SESSION_FILE_PATH=place):
        with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
            SessionStore("a" * 32).load()
        with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
            SessionStore().create()
        assert not place.exists()
        place.mkdir()
        assert SessionStore("a" * 32).load() == {}
        SessionStore().create()


@posix
def test_in_the_temp_folder_each_user_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for all of them would belong to the first, and shut out the others."""
    with override_settings(SESSION_FILE_PATH=None):
        mine = session_folder()
        monkeypatch.setattr(os, "getuid", lambda: 12_345)

        assert session_folder().name != mine.name
        assert session_folder().parent == mine.parent


@posix
def test_a_folder_that_another_user_has_put_in_the_temp_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who creates the folder first owns it, and could read and remove the sessions."""
    tmp_path.chmod(0o1777)
    (tmp_path / "sessions").mkdir()
    uid = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
        FileStorage(tmp_path / "sessions").create(live(), NOW)


@posix
def test_a_link_in_the_temp_folder_is_refused(tmp_path: Path) -> None:
    """It could lead to a folder of ours where sessions do no good."""
    tmp_path.chmod(0o1777)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
        FileStorage(tmp_path / "sessions").create(live(), NOW)


# System calls ---------------------------------------------------------------------------------


class Calls(list[str]):
    """The system calls of the storage, in order, each made through a module that it imports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.failed: list[str] = []
        self.bytes_read = 0
        for user in (storages, disk, folders, locks, purge, record_file):
            for name in ("os", "fcntl"):
                if module := getattr(user, name, None):
                    monkeypatch.setattr(user, name, self._recording(module))

    def _recording(self, module: types.ModuleType) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            **{
                name: self._recorded(value)
                if isinstance(value, types.BuiltinFunctionType) and name != "fspath"
                else value
                for name, value in vars(module).items()
                if not name.startswith("__")
            }
        )

    def _recorded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.append(call.__name__)
            try:
                result = call(*args, **kwargs)
            except OSError:
                self.failed.append(call.__name__)
                raise
            if call is os.read:
                self.bytes_read += len(result)
            return result

        return recorded


LOCK = ["open", "flock", "fstat", "stat"]
UNLOCK = ["flock", "close"]
REPLACE = ["open", "write", "close", "utime", "replace"]
CREATE = [*LOCK, "lstat", *REPLACE, *UNLOCK]
READ = ["open", "read", "close"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, engine_folder: Path) -> Calls:
    """Of an engine whose shards exist, as they do after the first few hundred sessions."""
    pytest.importorskip("fcntl")
    storage = SessionStore.storage()
    for shard in range(256):
        storage.create(live(f"{shard:02x}" * 20), NOW)
    return Calls(monkeypatch)


@pytest.fixture
def stored_key(engine_folder: Path) -> str:
    session = SessionStore()
    session["cart"] = {"socks": 1}
    session.save()
    return session.session_key


def test_an_unknown_id_costs_a_failed_open_and_a_look_at_the_folder(
    stored_key: str, calls: Calls
) -> None:
    """Strangers send unknown keys as often as they like. The folder, and the file system that it is
    on, take a microsecond each."""
    assert SessionStore("a" * 32).load() == {}

    assert calls == ["open", "stat", "statvfs"]
    assert calls.failed == ["open"]


def test_a_malformed_key_costs_nothing(calls: Calls) -> None:
    """It was never given out."""
    assert SessionStore("../" * 10).load() == {}

    assert calls == []


def test_a_read_costs_three_calls(stored_key: str, calls: Calls) -> None:
    """No stat, no second read to find the end."""
    assert SessionStore(stored_key)["cart"] == {"socks": 1}

    assert calls == READ


def test_a_first_write_costs_twelve_calls(calls: Calls) -> None:
    """The lock, one look whether its file is still there, one whether the id is free, and the
    replacement."""
    session = SessionStore()
    session["cart"] = {}
    session.save()

    assert calls == CREATE
    assert calls.failed == ["lstat"]


def test_a_read_and_a_write_cost_a_read_and_one_replacement(stored_key: str, calls: Calls) -> None:
    """Of the current record only the front is read again: the version, and where a tombstone
    leads."""
    session = SessionStore(stored_key)
    session["cart"]["socks"] = 2
    session.save()

    assert calls == [*READ, *LOCK, *READ, *REPLACE, *UNLOCK]
    length = len(path_of(session_folder(), session.session_id).read_bytes())
    assert calls.bytes_read == length + HEAD_SIZE + ID_SIZE
    assert calls.failed == []


def test_a_login_costs_a_read_a_creation_and_an_overwritten_head(
    stored_key: str, calls: Calls
) -> None:
    """The old record is not written anew only to say that it is over."""
    session = SessionStore(stored_key)
    session.cycle_key()
    session["_auth_user_id"] = "7"
    session.save()

    supersede = [*LOCK, "open", "read", "lseek", "write", "close", "utime", *UNLOCK]
    assert calls == [*READ, *CREATE, *supersede]


def test_a_logout_costs_a_read_and_one_removal(stored_key: str, calls: Calls) -> None:
    """One look at whether it is still the session, and no second."""
    SessionStore(stored_key).flush()

    assert calls == [*LOCK, "open", "read", "close", "unlink", *UNLOCK]


# A disk that refuses --------------------------------------------------------------------------


def _raising(error: int) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return refuse


OPERATIONS: dict[str, Callable[[FileStorage], Any]] = {
    "read": lambda storage: storage.read(ID),
    "create": lambda storage: storage.create(live(OTHER_ID), NOW),
    "update": lambda storage: storage.update(live(version=2), live(), NOW),
    "touch": lambda storage: storage.touch(live(), NOW + 2 * HOUR, NOW, NOW),
    "delete": lambda storage: storage.delete(ID),
    "supersede": lambda storage: storage.update(
        make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=60), live(), NOW
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_folder_that_cannot_be_entered_is_an_outage(
    storage: FileStorage, folder: Path, operation: str
) -> None:
    """Said to be no session, it would take everyone's cookie away."""
    storage.create(live(), NOW)
    (folder / "3f").rename(folder / "aside")
    (folder / "3f").write_text("not a folder")

    with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
        OPERATIONS[operation](storage)


@pytest.mark.parametrize("call", ["open", "read"])
@pytest.mark.parametrize("error", ["EACCES", "EIO", "EMFILE", "ESTALE"])
def test_a_read_that_fails_is_an_outage(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, call: str, error: str
) -> None:
    """Only a file that is not there means no session."""
    storage.create(live(), NOW)
    monkeypatch.setattr(os, call, _raising(getattr(errno, error)))

    with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH") as raised:
        storage.read(ID)
    assert ("the owner of the folder" in str(raised.value)) == (error == "EACCES")


@pytest.mark.parametrize("call", ["open", "write", "close", "replace"])
def test_a_write_that_fails_at_any_step_leaves_the_old_record(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """NFS and quotas may find out only at close that the disk is full. And what was written in
    vain must not keep the space."""
    storage.create(live(), NOW)
    real = getattr(os, call)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not str(args[0]).endswith(".new"):
            return real(*args, **kwargs)
        if call == "close":
            real(*args)
            if stat_before_close[args[0]] != ".new":
                return None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stat_before_close: dict[int, str] = {}
    real_open = os.open

    def remember(path: Any, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, *args, **kwargs)
        stat_before_close[fd] = Path(path).name
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", remember)
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageFull, match="SESSION_FILE_PATH"):
            storage.update(live(version=2), live(), NOW)

    assert storage.read(ID) == live()
    assert {path.name for path in (folder / "3f").iterdir()} == {ID, ".lock"}


def test_a_write_that_is_taken_in_parts_is_completed(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take less than it is given, and says so without an error."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))

    storage.create(live(payload=b"x" * 1000), NOW)

    assert storage.read(ID) == live(payload=b"x" * 1000)


def test_a_new_session_without_a_place_for_its_folder_is_an_outage(tmp_path: Path) -> None:
    """The disk was unmounted while the site runs. Not there is no answer to a write."""
    with pytest.raises(StorageUnavailable, match="SESSION_FILE_PATH"):
        FileStorage(tmp_path / "unmounted" / "sessions").create(live(), NOW)


def _save_in_vain(session: Any, error: type[Exception] = StorageUnavailable) -> None:
    session["blob"] = os.urandom(100_000)
    with pytest.raises(error, match="SESSION_FILE_PATH"):
        session.save()


def test_a_read_only_disk_still_serves_reads(tmp_path: Path) -> None:
    """The file system goes read-only after a disk error: who is logged in stays logged in, and
    every write is an error, a logout too."""
    disk = tmp_path / "disk"
    with tiny_disk(disk) as remount, override_settings(SESSION_FILE_PATH=disk):
        session = SessionStore()
        session["name"] = "Ada"
        session.save()
        remount("ro")

        _save_in_vain(session)
        with pytest.raises(StorageUnavailable):
            SessionStore(session.session_key).flush()
        with pytest.raises(StorageUnavailable):
            SessionStore().create()
        assert SessionStore(session.session_key).load() == {"name": "Ada"}
        remount("rw")


@posix
@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_still_serves_reads(engine_folder: Path) -> None:
    """The same where no file system can be mounted."""
    session = SessionStore()
    session["name"] = "Ada"
    session.save()
    shard = path_of(engine_folder, session.session_id).parent
    shard.chmod(0o500)
    try:
        _save_in_vain(session)
        assert SessionStore(session.session_key).load() == {"name": "Ada"}
    finally:
        shard.chmod(0o700)


@posix
def test_a_lock_that_is_never_released_is_an_outage_not_a_hang(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is stopped must not stop all the others for good."""
    import fcntl

    storage.create(live(), NOW)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    with (folder / "3f" / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(StorageUnavailable, match="lock"):
            storage.update(live(version=2), live(), NOW)
        assert storage.read(ID) == live()


@posix
def test_a_process_that_was_stopped_itself_tries_once_more(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host without CPU time to give, seconds pass between two lines: nobody kept the lock."""
    import fcntl

    hours = itertools.count(0, 3600)
    monkeypatch.setattr(locks.time, "monotonic", lambda: float(next(hours)))
    assert isinstance(storage.create(live(), NOW), Updated)  # It makes the shard.
    with (folder / "3f" / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(locks.time, "sleep", lambda _: fcntl.flock(held, fcntl.LOCK_UN))
        assert storage.delete(ID)


@posix
def test_a_process_forked_under_the_lock_does_not_keep_it(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has the lock file open too. If only its closing released the lock, a worker
    forked by another thread at that moment would hold it for as long as it lives."""
    copies = []
    real = record_file.write_all

    def fork_meanwhile(fd: int, data: bytes) -> None:
        # What fork() does to open files, without a process.
        copies.extend(os.dup(open_fd) for open_fd in _open_locks())
        real(fd, data)

    monkeypatch.setattr(record_file, "write_all", fork_meanwhile)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    try:
        storage.create(live(), NOW)
        assert copies
        storage.delete(ID)
    finally:
        for copy in copies:
            os.close(copy)


def _open_locks() -> list[int]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    found = []
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(entry).endswith("/.lock"):
                found.append(int(entry.name))
    return found


# Purging --------------------------------------------------------------------------------------


def purge_all(storage: FileStorage, batch: int = 1000) -> list[int]:
    """Return what each batch has removed, up to the 0 that ends it."""
    removed = [storage.purge(NOW, batch)]
    while removed[-1]:
        removed.append(storage.purge(NOW, batch))
        assert len(removed) < 1000
    return removed


def test_a_purge_removes_what_has_expired_and_nothing_else(
    storage: FileStorage, folder: Path
) -> None:
    """In the same shard and in others."""
    storage.create(live(), NOW)
    for expired in (OTHER_ID, ELSEWHERE_ID):
        storage.create(live(expired, expires=NOW), NOW - HOUR)

    assert sum(purge_all(storage)) == 2
    assert records_in(folder) == {ID}


@pytest.mark.parametrize("spread", [True, False], ids=["over all shards", "in one shard"])
def test_a_purge_removes_no_more_than_a_batch(
    storage: FileStorage, folder: Path, spread: bool
) -> None:
    """And goes on until nothing is left."""
    for number in range(300):
        shard = f"{number % 256:02x}" if spread else "3f"
        storage.create(live(f"{shard}{number:038x}", expires=NOW - 1), NOW - HOUR)

    assert purge_all(storage, 71) == [71, 71, 71, 71, 16, 0]
    assert records_in(folder) == set()


def test_each_batch_goes_on_where_the_last_one_stopped(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning each time, the folders searched would grow with the square of the
    sessions."""
    for number in range(256):
        storage.create(live(f"{number:02x}" * 20, expires=NOW - 1), NOW - HOUR)
    searched = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: searched.append(path) or scandir(path))

    assert purge_all(storage, 8) == [8] * 32 + [0]

    assert len(searched) <= 256 + 32 + 256


def test_a_purge_looks_at_each_file_once_however_many_batches_it_takes(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To begin each batch from the start is quadratic: a million files in a shard never end."""
    for number in range(120):
        expires = NOW if number % 2 else NOW + 60_000
        storage.create(live(f"00{number:038x}", expires=expires), NOW - 1)
    looked_at: list[str] = []
    look = os.stat

    def count(path: Any, **options: Any) -> os.stat_result:
        looked_at.append(os.path.basename(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", count)
    assert sum(purge_all(storage, 5)) == 60
    assert sum(len(name) == ID_LENGTH for name in looked_at) == 120


def test_many_files_of_a_shard_take_its_lock_once(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To lock is most of what it costs to remove a file."""
    held: list[str] = []
    hold = storage._locks.hold

    def counted(session_id: str, **options: Any) -> Any:
        held.append(session_id)
        return hold(session_id, **options)

    for number in range(150):
        storage.create(live(f"00{number:038x}", expires=NOW), NOW - 1)
    for number in range(150, 300):
        storage.create(live(f"{number % 2:02x}{number:038x}"), NOW - 1)
    monkeypatch.setattr(storage._locks, "hold", counted)
    # A hundred at a time, so that no writer waits for long.
    assert storage.purge(NOW, 1000) == 150
    assert len(held) <= 4
    held.clear()
    ids = [f"{number % 2:02x}{number:038x}" for number in range(150, 300)]
    assert sorted(storage.end_many(ids)) == sorted(ids)
    assert len(held) == 2


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_a_batch_removes_no_more_than_it_may(storage: FileStorage, batch: int) -> None:
    """The batch reads a hundred files at once. The next batch removes the rest of them."""
    for number in range(230):
        storage.create(live(f"00{number:038x}", expires=NOW), NOW - 1)
    removed = purge_all(storage, batch)
    assert max(removed) <= batch
    assert sum(removed) == 230


def test_a_purge_that_was_left_unfinished_is_begun_anew_before_it_says_done(
    storage: FileStorage,
) -> None:
    """A caller that stopped after one batch and comes back later must not be told that nothing is
    left."""
    for shard in ("00", "01"):
        storage.create(live(f"{shard}{1:038x}", expires=NOW), NOW - 1)
    assert storage.purge(NOW, 1) == 1
    storage.create(live(f"00{2:038x}", expires=NOW), NOW - 1)
    assert [storage.purge(NOW + 1, 10) for _ in range(3)] == [1, 1, 0]
    storage.create(live(f"00{2:038x}", expires=NOW), NOW - 1)
    assert [storage.purge(NOW + 1, 10) for _ in range(2)] == [1, 0]


def test_a_purge_reads_no_live_session(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an expired one it reads the start, which has the user. Django reads them all."""
    pytest.importorskip("fcntl")
    for number in range(20):
        storage.create(live(f"3f{number:038x}", payload=b"x" * 10_000), NOW)
    storage.create(live(ID, expires=NOW - 1, payload=b"x" * 10_000), NOW - HOUR)
    calls = Calls(monkeypatch)

    assert sum(purge_all(storage)) == 1

    assert calls.bytes_read == START_SIZE
    assert calls.count("read") == 1


def test_a_copied_folder_keeps_its_sessions(storage: FileStorage, folder: Path) -> None:
    """A copy without modification times makes every session look expired. The record knows
    better, and after one purge the hint is right again."""
    storage.create(live(), NOW)
    os.utime(path_of(folder), (1, 1))

    assert purge_all(storage) == [0]

    assert storage.read(ID) == live()
    assert path_of(folder).stat().st_mtime_ns // 1_000_000 == NOW + HOUR


def test_a_touched_record_is_no_candidate(storage: FileStorage, folder: Path) -> None:
    """A touch moves the hint too; else each purge would open every session in steady use."""
    storage.create(live(expires=NOW), NOW - HOUR)
    storage.touch(live(), NOW + HOUR, NOW, NOW - HOUR)

    assert path_of(folder).stat().st_mtime_ns // 1_000_000 == NOW + HOUR


@pytest.mark.parametrize("rescue", ["touch", "update"])
def test_a_record_that_is_used_while_it_is_being_purged_stays(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, rescue: str
) -> None:
    """Between the look at the folder and the removal a request may prolong the session; to
    remove it all the same would log its user out."""
    record = live(expires=NOW)
    storage.create(record, NOW - HOUR)
    remove = storage._purge._remove_expired

    def remove_late(*args: Any) -> int:
        if rescue == "touch":
            storage.touch(record, NOW + HOUR, NOW, NOW - 1)
        else:
            storage.update(live(version=2), record, NOW - 1)
        return remove(*args)

    monkeypatch.setattr(storage._purge, "_remove_expired", remove_late)

    assert storage.purge(NOW, 10) == 0
    current = storage.read(ID)
    assert current is not None
    assert current.expires == NOW + HOUR


def test_a_purge_removes_what_killed_writers_left(storage: FileStorage, folder: Path) -> None:
    """In a shard without further writes it would lie there for ever."""
    storage.create(live(), NOW)
    (folder / "3f" / ".new").write_bytes(b"half a record")

    storage.purge(NOW, 10)

    assert {path.name for path in (folder / "3f").iterdir()} == {ID, ".lock"}


@posix
def test_a_purge_does_not_remove_what_is_being_written(storage: FileStorage, folder: Path) -> None:
    """The new record looks like a leftover until its rename. Who holds the lock needs it."""
    storage.create(live(), NOW)
    new = folder / "3f" / ".new"
    with storage._locks.hold(ID):
        new.write_bytes(b"not yet complete")
        purge = threading.Thread(target=storage.purge, args=(NOW, 10))
        purge.start()
        purge.join(0.1)
        assert new.exists()
    purge.join()
    assert not new.exists()


def test_a_damaged_record_goes_when_its_time_is_over(storage: FileStorage, folder: Path) -> None:
    """Nobody can load it. Kept for good, it would be litter; before, it may be a newer
    release's."""
    for session_id in (ID, OTHER_ID):
        storage.create(live(session_id), NOW)
        path_of(folder, session_id).write_bytes(b"?")
    os.utime(path_of(folder), (1, 1))
    os.utime(path_of(folder, OTHER_ID), (NOW, NOW))

    assert sum(purge_all(storage)) == 1
    assert records_in(folder) == {OTHER_ID}


@posix
@pytest.mark.parametrize("end", ["expired", "deleted"])
def test_a_purge_leaves_nothing_of_sessions_that_have_ended(
    storage: FileStorage, folder: Path, end: str
) -> None:
    """Up to 256 folders with a lock file each would stay for good."""
    for session_id in (ID, OTHER_ID, ELSEWHERE_ID):
        storage.create(live(session_id, expires=NOW), NOW - HOUR)
        if end == "deleted":
            storage.delete(session_id)
    (folder / "3f" / ".new").write_bytes(b"of a killed writer")

    assert sum(purge_all(storage, 1)) == (3 if end == "expired" else 0)

    assert left_in(folder) == []


@posix
def test_a_purge_leaves_a_shard_in_use_its_lock(storage: FileStorage, folder: Path) -> None:
    """To remove the lock file of a busy shard would make its writers start again for nothing."""
    for session_id, expires in ((ID, NOW + HOUR), (OTHER_ID, NOW), (ELSEWHERE_ID, NOW)):
        storage.create(live(session_id, expires=expires), NOW - HOUR)
    lock = (folder / "3f" / ".lock").stat().st_ino

    assert sum(purge_all(storage)) == 2

    assert {path.name for path in folder.glob(SHARDS + "/*")} == {ID, ".lock"}
    assert (folder / "3f" / ".lock").stat().st_ino == lock


@posix
def test_what_a_killed_purge_left_goes_with_the_next(storage: FileStorage, folder: Path) -> None:
    """Killed between the lock file and the folder, say."""
    storage.create(live(), NOW)
    storage.delete(ID)
    (folder / "3f" / ".lock").unlink()

    storage.purge(NOW, 10)

    assert left_in(folder) == []


def test_a_purge_leaves_strange_files_alone(storage: FileStorage, folder: Path) -> None:
    """The purge removes no file that the storage has not written."""
    storage.create(live(), NOW)
    for path in (folder / "README", folder / "3f" / "3fREADME"):
        path.write_text("mine")
        os.utime(path, (1, 1))

    assert purge_all(storage) == [0]
    storage.delete(ID)
    assert purge_all(storage) == [0]
    assert (folder / "README").exists()
    assert (folder / "3f" / "3fREADME").exists()


# Purging beside writers -----------------------------------------------------------------------
#
# The lock file of an empty shard goes, and the folder. Each test has a writer come at one moment.


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return the action at its first call only, though it may lead to further ones."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


@pytest.fixture
def empty_shard(storage: FileStorage, folder: Path) -> Path:
    storage.create(live(), NOW)
    storage.delete(ID)
    return folder / "3f"


def _keeping_its_name(path: str) -> None:
    """Rename a file that is removed while it is open, as network file systems do."""
    os.rename(path, f"{path}.removed")


@posix
@pytest.mark.parametrize("remove", [os.unlink, _keeping_its_name])
def test_a_lock_whose_file_was_removed_keeps_others_out_all_the_same(
    storage: FileStorage,
    empty_shard: Path,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[str], None],
) -> None:
    """Opened by a writer, then removed by a purge, then locked by the writer: whoever comes next
    makes and locks another file, and of the two one loses its save."""
    try_lock = locks.try_lock
    purge = once(lambda: storage.purge(NOW, 10))

    def lock_late(fd: int) -> None:
        purge()
        try_lock(fd)

    monkeypatch.setattr(locks, "try_lock", lock_late)
    monkeypatch.setattr(os, "unlink", remove)
    with storage._locks.hold(ID, make_folders=True):
        monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
        with pytest.raises(StorageUnavailable, match="lock"):
            storage.create(live(OTHER_ID), NOW)
    storage.create(live(OTHER_ID), NOW)


WITHOUT_RECORD: dict[str, tuple[Callable[[FileStorage], Any], Any]] = {
    "create": (OPERATIONS["create"], Updated(live(OTHER_ID))),
    "update": (OPERATIONS["update"], Gone()),
    "supersede": (OPERATIONS["supersede"], Gone()),
    "touch": (OPERATIONS["touch"], False),
    "delete": (OPERATIONS["delete"], False),
    "purge": (lambda storage: storage.purge(NOW, 10), 0),
}


@dataclass(frozen=True)
class Writer:
    """A request that does one of the operations of `WITHOUT_RECORD`."""

    storage: FileStorage
    folder: Path
    operation: str

    @property
    def creates(self) -> bool:
        return self.operation == "create"

    @property
    def record_ids(self) -> set[str]:
        """Return the records that are there after the operation."""
        return {OTHER_ID} if self.creates else set()

    def write(self) -> None:
        """Do the operation; its answer must be the same as without a purge."""
        operate, expected = WITHOUT_RECORD[self.operation]
        assert operate(self.storage) == expected
        assert records_in(self.folder) == self.record_ids


@pytest.fixture(params=WITHOUT_RECORD)
def writer(request: pytest.FixtureRequest, storage: FileStorage, folder: Path) -> Writer:
    return Writer(storage, folder, request.param)


@posix
def test_a_purge_before_the_lock(
    writer: Writer, folder: Path, empty_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file is opened, and gone when the lock is there. Creating starts again; all the
    rest has nothing to do, and neither fails nor makes the folder again."""
    try_lock, was_there = locks.try_lock, []

    @once
    def purge() -> None:
        FileStorage(folder).purge(NOW, 10)
        was_there.append(empty_shard.exists())

    def lock_late(fd: int) -> None:
        purge()
        try_lock(fd)

    with monkeypatch.context() as patch:
        patch.setattr(locks, "try_lock", lock_late)
        writer.write()
    assert was_there == [False]
    assert empty_shard.exists() == writer.creates


@posix
@pytest.mark.parametrize("trusted", [True, False], ids=["later", "first"])
def test_a_purge_before_the_lock_file_is_in_the_new_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """A new shard is empty, and a purge may take it away again: the first session of a quiet
    site must be stored all the same."""
    storage = FileStorage(folder)
    if trusted:
        storage.create(live(ELSEWHERE_ID), NOW)
    mkdir, removed = os.mkdir, []

    def make_in_vain(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if path.endswith("3f") and len(removed) < 3:
            FileStorage(folder).purge(NOW, 10)
            removed.append(not os.path.exists(path))

    monkeypatch.setattr(os, "mkdir", make_in_vain)

    assert storage.create(live(), NOW) == Updated(live())

    assert removed == [True] * 3
    assert storage.read(ID) == live()


@posix
def test_a_purge_that_is_quicker_each_time_is_an_outage_not_a_hang(
    storage: FileStorage, empty_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(locks, "_is_at", lambda fd, path: False)

    with pytest.raises(StorageUnavailable, match="lock"):
        storage.create(live(), NOW)


@posix
def test_a_writer_between_the_lock_file_and_the_folder(
    writer: Writer, folder: Path, empty_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge has removed the lock file, and is about to remove the folder: a new session is
    not to go with it."""
    rmdir, write = os.rmdir, once(writer.write)

    def remove_late(path: str) -> None:
        write()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", remove_late)

    FileStorage(folder).purge(NOW, 10)

    assert records_in(folder) == writer.record_ids
    FileStorage(folder).purge(NOW, 10)
    assert empty_shard.exists() == writer.creates


@posix
def test_a_writer_after_the_folder(
    writer: Writer, folder: Path, empty_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge still holds the lock of what it has removed. Nobody has to wait for that."""
    rmdir, write = os.rmdir, once(writer.write)

    def remove_early(path: str) -> None:
        rmdir(path)
        write()

    monkeypatch.setattr(os, "rmdir", remove_early)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)

    FileStorage(folder).purge(NOW, 10)

    assert empty_shard.exists() == writer.creates


@posix
def test_a_writer_between_the_look_and_the_lock(
    writer: Writer, folder: Path, empty_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that seemed empty may have a file once the lock is held."""
    purging = FileStorage(folder)
    remove = purging._purge._remove_if_empty

    def remove_late(shard: str) -> None:
        writer.write()
        remove(shard)

    monkeypatch.setattr(purging._purge, "_remove_if_empty", remove_late)
    lock = (empty_shard / ".lock").stat().st_ino

    purging.purge(NOW, 10)

    assert empty_shard.exists() == writer.creates
    if writer.creates:
        assert (empty_shard / ".lock").stat().st_ino == lock


# Many at once ---------------------------------------------------------------------------------


def _worker(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.storages.files.worker", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_threads_and_processes_lose_no_update(storage: FileStorage, folder: Path) -> None:
    """Each counts on the version that it has read. One that overwrites another's is missing in
    the end."""
    storage.create(Record(id=file_worker.COUNTER, expires=file_worker.FAR), 0)
    processes = [_worker("count", folder, 100) for _ in range(3)]
    threads = [threading.Thread(target=file_worker.add, args=(storage, 100)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [
        0
    ] * 3

    counter = storage.read(file_worker.COUNTER)
    assert counter is not None
    assert counter.version == 1 + 7 * 100


@posix
@pytest.mark.slow
def test_writers_and_purges_in_one_shard_lose_nothing(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By force: each worker begins, saves and ends sessions in a shard that others remove as soon
    as it is empty. It stops if any of its writes is not there, or if two are given one id."""
    rmdir, removed = os.rmdir, []

    def count(path: str) -> None:
        rmdir(path)
        removed.append(path)

    monkeypatch.setattr(os, "rmdir", count)
    processes = [_worker("churn", folder, 200) for _ in range(3)]
    working = threading.Event()
    working.set()

    def purge() -> None:
        purging = FileStorage(folder)
        while working.is_set():
            purging._purge._remove_if_empty(file_worker.SHARED[:2])

    threads = [threading.Thread(target=purge) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        done = [process.communicate(timeout=120) and process.returncode for process in processes]
    finally:
        working.clear()
        for thread in threads:
            thread.join()

    assert done == [0] * 3
    assert len(removed) > 50  # Else it proves nothing.
    storage.purge(NOW, 10)
    assert left_in(folder) == []


def test_of_many_who_want_one_id_one_gets_it(storage: FileStorage) -> None:
    """Two sessions under one id would be one user in another's session."""
    outcomes = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        outcomes.append(storage.create(live(payload=b"%d" % number), NOW))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, Updated))
    assert outcomes.count(Taken()) == 7
    assert storage.read(ID) == winner.record


def test_two_threads_make_the_folder(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one must not take the folder, which the first one completes, for another one."""
    completed_at = UserIndex.completed_at
    first: list[int | None] = []

    def completed_before_the_other_thread(index: UserIndex) -> int | None:
        seen = completed_at(index)
        if not first:
            first.append(seen)
            assert isinstance(storage.create(live(OTHER_ID), NOW), Updated)
        return seen

    monkeypatch.setattr(UserIndex, "completed_at", completed_before_the_other_thread)
    assert isinstance(storage.create(live(), NOW), Updated)
    assert first == [None]
    assert storage.read(OTHER_ID) is not None


@posix
def test_a_save_that_has_compared_versions_is_not_overtaken_by_a_logout(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logout waits for the rename, or it would remove the old file and the rename would
    bring the session back."""
    storage.create(live(), NOW)
    write = storage._write
    logout = threading.Thread(target=storage.delete, args=(ID,))

    def write_late(record: Record) -> None:
        logout.start()
        logout.join(0.1)
        write(record)

    monkeypatch.setattr(storage, "_write", write_late)
    storage.update(live(version=2), live(), NOW)
    logout.join()

    assert storage.read(ID) is None


@posix
@pytest.mark.slow
def test_a_killed_process_tears_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL at 200 random moments of a save loop. Every save answered as done is there, every
    session is whole, and after clearing expired sessions nothing is left but the others and the
    lock files beside them; when these have expired too, nothing. Django's engine leaves a file
    for every other kill."""
    process = _worker("kill", tmp_path, 200)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    report = json.loads(output)

    # Else it proves nothing.
    assert report["saves"] >= 200
    assert report["interrupted"] > 0
    assert (report["torn"], report["litter"], report["all"]) == (0, [], True)
    assert report["left"] == []

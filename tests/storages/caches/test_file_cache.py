"""What is particular to sessions beside the entries of Django's cache of files.

What they share with other caches is in the conformance suite, and with files in ``test_file``.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.checks.registry import registry
from django.test import Client, override_settings

from django_sessionstores.core import clock
from django_sessionstores.core.records import Record, State, make_tombstone, pack
from django_sessionstores.exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from django_sessionstores.storages.base import CacheStorage, Gone, Updated
from django_sessionstores.storages.caches.file_cache import FileCacheStorage
from django_sessionstores.storages.caches.selection import storage_for
from django_sessionstores.storages.files import disk, locks, record_file
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.testing import now, successor, without_handle
from tests.storages.records import HOUR, make_record

ID = "3f" * 20
OTHER_ID = "a0" * 20


def record(record_id: str = ID, **fields: Any) -> Record:
    return make_record(record_id, **fields)


@contextmanager
def storage_of(location: Path, **entry: Any) -> Iterator[Any]:
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    settings = {"BACKEND": backend, "LOCATION": location, **entry}
    with override_settings(CACHES={"default": settings}):
        yield storage_for("default")


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "some" / "cache"


@pytest.fixture
def storage(location: Path) -> Iterator[FileCacheStorage]:
    with storage_of(location) as storage:
        yield storage


def records_in(location: Path) -> set[str]:
    return {path.name for path in location.glob("*/*/*") if not path.name.startswith(".")}


def path_of(location: Path, session_id: str = ID) -> Path:
    (path,) = location.glob(f"*/*/{session_id}")
    return path


# The folder ---------------------------------------------------------------------------------------


def test_the_cache_neither_clears_nor_culls_sessions(location: Path) -> None:
    """Django drops entries at random when it counts more than 300: users who were logged in. And
    it must not stumble over our folder."""
    with storage_of(location, OPTIONS={"MAX_ENTRIES": 2, "CULL_FREQUENCY": 1}) as storage:
        storage.create(record(), now())
        for number in range(10):
            caches["default"].set(f"entry-{number}", number)
        assert len(list(location.glob("*.djcache"))) <= 2
        caches["default"].clear()

        assert storage.read(ID).payload == b"encrypted"
        assert not list(location.glob("*.djcache"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"KEY_PREFIX": "one"}, {"KEY_PREFIX": "other"}),
        ({"KEY_PREFIX": "one"}, {}),
        ({"VERSION": 1}, {"VERSION": 2}),
        ({"KEY_PREFIX": "a/b"}, {"KEY_PREFIX": "a%2Fb"}),
        ({"KEY_PREFIX": "a", "VERSION": -1}, {"KEY_PREFIX": "a-", "VERSION": 1}),
        ({"KEY_PREFIX": "a+1", "VERSION": 2}, {"KEY_PREFIX": "a", "VERSION": "1+2"}),
    ],
)
def test_prefix_and_version_keep_projects_apart(
    location: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Two sites may share the cache's folder. A version that was raised forgets all sessions."""
    with storage_of(location, **one) as storage:
        storage.create(record(expires=1), 0)
    with storage_of(location, **other) as storage:
        assert storage.read(ID) is None
        assert storage.purge(now(), 10) == 0
    with storage_of(location, **one) as storage:
        assert storage.read(ID) is not None


@pytest.mark.parametrize(
    "prefix", ["", "..", "../../up", "/etc", "a\\b", "x.djcache", "shop*", "Müller", "a\0b", "a\nb"]
)
def test_any_prefix_makes_a_name_in_the_folder_of_the_cache(location: Path, prefix: str) -> None:
    """One that leads elsewhere would leave the sessions where nobody looks for them; one that
    ends like an entry would make the cache remove it, or fail to."""
    with storage_of(location, KEY_PREFIX=prefix) as storage:
        storage.create(record(), now())
        caches["default"].clear()

        assert storage.read(ID) is not None
    assert [path.parent for path in location.glob("*/3f/.lock")] == [
        location / storage._folder.path / "3f"
    ]


_tenant = ContextVar("tenant", default="tenant")


@contextmanager
def tenant(name: str) -> Iterator[None]:
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


def _key_of_tenant(key: str, prefix: str, version: int) -> str:
    return f"{_tenant.get()}:{key}"


def test_a_key_function_that_depends_on_the_request_tells_tenants_apart(location: Path) -> None:
    with storage_of(location, KEY_FUNCTION=_key_of_tenant) as storage:
        storage.create(record(), now())
        with tenant("other/../tenant" * 20):
            assert storage.read(ID) is None
            assert storage.count(now(), None) == 0
            assert storage.delete(ID) is False
            assert storage.purge(record().expires, 10) == 0
        assert storage_for("default").count(now(), None) == 1
        assert storage.read(ID) is not None


def test_the_folder_is_made_by_the_first_write(storage: FileCacheStorage, location: Path) -> None:
    """Django's cache creates its folder at the same time. Until then there are no sessions."""
    assert not location.exists()
    assert storage.read(ID) is None
    assert storage.update(successor(record()), record(), now()) == Gone()
    assert list(location.iterdir()) == []

    assert isinstance(storage.create(record(), now()), Updated)
    assert storage.read(ID) is not None


@pytest.mark.parametrize("below", ["a file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_an_outage_and_names_its_setting(
    tmp_path: Path, below: str
) -> None:
    """Django's cache raises a bare OSError as soon as there is an object of it."""
    (tmp_path / "a file").touch()
    with storage_of(tmp_path / below / "cache") as storage:
        for call in (
            lambda: storage.read(ID),
            lambda: storage.create(record(), now()),
            lambda: storage.delete(ID),
            lambda: storage.fill(record(), now() + HOUR, now()),
        ):
            with pytest.raises(StorageUnavailable, match=r"CACHES\['default'\]\['LOCATION'\]"):
                call()


def test_a_browser_keeps_its_cookie_if_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    entry = {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": tmp_path / "a file" / "cache",
    }
    with override_settings(
        CACHES={"default": entry},
        SESSION_ENGINE="django_sessionstores.backends.cache",
        MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"],
    ):
        browser = Client()
        browser.cookies["sessionid"] = "a" * 32
        for page in ("/read/", "/write/x/1/"):
            answer = browser.get(page)
            assert answer.status_code == 503
            assert "sessionid" not in answer.cookies
        for check in registry.get_checks(include_deployment_checks=True):
            if check.__module__.startswith("django_sessionstores"):  # Django's raise the error.
                check(app_configs=None)


def test_a_folder_that_has_held_sessions_and_is_missing_is_an_outage(
    storage: FileCacheStorage, location: Path
) -> None:
    """A disk that is not mounted has ended nothing. A process that has only read knows it, too."""
    storage.create(record(), now())
    reader, stranger = storage_for("default"), storage_for("default")
    assert reader.read(ID) is not None
    assert stranger.read(OTHER_ID) is None
    shutil.rmtree(location)

    for each in (storage, reader, stranger):
        for operation in (
            lambda each=each: each.read(ID),
            lambda each=each: each.create(record(), now()),
            lambda each=each: each.delete(ID),
        ):
            with pytest.raises(StorageUnavailable, match=r"CACHES\['default'\]\['LOCATION'\]"):
                operation()
    assert not location.exists()


def test_a_folder_of_copies_may_be_removed(storage: FileCacheStorage, location: Path) -> None:
    """The sessions are in the database, so that the next request makes it again."""
    LayeredStorage(storage, MemoryStorage(10), lease=60, retry=1)
    for _ in range(2):
        storage.fill(record(), now() + HOUR, now())
        storage.leave_tombstone(make_tombstone(OTHER_ID, State.ENDED, now=now(), seconds=60), now())
        assert storage.read(ID) is not None
        assert storage.read(OTHER_ID) is not None
        shutil.rmtree(location)
        assert storage.read(ID) is None


def test_a_folder_that_is_none_is_an_outage_and_names_its_setting(
    storage: FileCacheStorage, location: Path
) -> None:
    """SESSION_FILE_PATH, which files are otherwise kept by, would be the wrong place to look."""
    location.parent.mkdir(parents=True)
    location.write_text("no folder")

    for operation in (
        lambda: storage.read(ID),
        lambda: storage.create(record(), now()),
        lambda: storage.fill(record(), now() + HOUR, now()),
    ):
        with pytest.raises(StorageUnavailable, match=r"CACHES\['default'\]\['LOCATION'\]"):
            operation()


def test_it_says_where_the_sessions_are(storage: FileCacheStorage, location: Path) -> None:
    """The sessions are not in the files of the cache itself."""
    folder = location / "django_sessionstores++1"
    assert storage.describe() == f"files in {folder} (cache 'default')"


def test_the_cache_does_not_lose_sessions(storage: FileCacheStorage) -> None:
    """The checks depend on these declarations."""
    assert isinstance(storage, CacheStorage)
    assert storage.durable
    assert storage.shared
    assert not storage.self_expiring


# Copies -------------------------------------------------------------------------------------------


def test_a_copy_ends_with_its_lease(storage: FileCacheStorage) -> None:
    """A lease is what bounds how long a logout goes unnoticed. Files have no clock."""
    moment = now()
    storage.fill(record(), moment + 60_000, moment)

    with clock.freeze(moment + 59_999):
        assert storage.read(ID) is not None
    with clock.freeze(moment + 60_000):
        assert storage.read(ID) is None


def test_a_copy_has_the_times_of_its_session(storage: FileCacheStorage) -> None:
    """With those of the lease instead, every request would move the expiry in the database."""
    original = record(version=3, user_id="7", created=1, ip="::1", user_agent="B")
    storage.fill(original, now() + 60_000, now())

    assert without_handle(storage.read(ID)) == original


def test_a_session_of_its_own_has_no_lease(storage: FileCacheStorage, location: Path) -> None:
    """Also where the file system keeps no modification times, and after a touch."""
    original = record()
    storage.create(original, now())
    storage.touch(original, original.expires + HOUR, now(), now())
    os.utime(path_of(location), (1, 1))

    with clock.freeze(original.expires + HOUR + 1):
        found = storage.read(ID)

    assert found is not None
    assert found.expires == original.expires + HOUR


@pytest.mark.parametrize("kind", ["copy", "tombstone"])
def test_copies_go_with_the_purge_after_their_lease(
    storage: FileCacheStorage, location: Path, kind: str
) -> None:
    """Not after the lifetime of their sessions: with weeks, a copy of each would pile up."""
    moment = now()
    if kind == "copy":
        storage.fill(record(), moment + 60_000, moment)
    else:
        storage.leave_tombstone(make_tombstone(ID, State.ENDED, now=moment, seconds=60), moment)

    assert storage.purge(moment + 59_999, 10) == 0
    assert records_in(location) == {ID}
    assert storage.purge(moment + 60_000, 10) == 1
    assert records_in(location) == set()


def test_a_purge_of_cached_db_reaches_the_copies(storage: FileCacheStorage, location: Path) -> None:
    """Of what nobody asks for again, a file would stay for good. Lock files included."""
    layered = LayeredStorage(storage, MemoryStorage(100), lease=60, retry=1)
    for session_id in (ID, OTHER_ID):
        layered.create(record(session_id), now())
    layered.delete(OTHER_ID)
    assert records_in(location) == {ID, OTHER_ID}

    assert layered.purge(now() + 2 * 60_000, 10) == 0

    assert layered.read(ID) is not None  # The session goes on, and has a copy again.
    assert records_in(location) == {ID}


@pytest.mark.parametrize(
    "damaged", [b"", b"garbage", pack(Record(id=ID, expires=1, payload=b"short"))]
)
def test_a_damaged_file_is_unreadable_and_makes_room_for_a_copy(
    storage: FileCacheStorage, location: Path, damaged: bytes
) -> None:
    """No error page; and it must not stay in the way of every copy."""
    storage.create(record(), now())
    path_of(location).write_bytes(damaged)

    with pytest.raises(UnreadablePayload):
        storage.read(ID)
    storage.fill(record(), now() + HOUR, now())
    assert without_handle(storage.read(ID)) is not None


CHANGES: dict[str, Callable[[CacheStorage], None]] = {
    "fill": lambda storage: storage.fill(successor(record()), now() + HOUR, now()),
    "leave_tombstone": lambda storage: storage.leave_tombstone(
        make_tombstone(ID, State.ENDED, now=now(), seconds=60), now()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_is_told_and_the_copy_can_be_removed(
    storage: FileCacheStorage,
    location: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """The layer above then removes the old copy, which must not outlive what replaces it."""
    storage.fill(record(), now() + HOUR, now())

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module in (record_file, disk):
        monkeypatch.setattr(module, "write_all", full)
    with pytest.raises(StorageFull):
        CHANGES[change](storage)
    storage.delete(ID)

    assert records_in(location) == set()


def test_a_tombstone_takes_the_room_of_the_copy(
    storage: FileCacheStorage, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logout needs no new file, which takes ten times as long and which a full disk refuses.
    Nothing of the copy is left."""
    storage.fill(record(), now() + HOUR, now())
    assert record().payload in path_of(location).read_bytes()

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record_file, "write_all", refused)
    tombstone = make_tombstone(ID, State.ENDED, now=now(), seconds=60)
    storage.leave_tombstone(tombstone, now())

    found = storage.read(ID)
    assert found is not None
    assert (found.state, found.expires, found.payload) == (State.ENDED, tombstone.expires, b"")
    assert record().payload not in path_of(location).read_bytes()
    storage.fill(record(), now() + HOUR, now())
    assert storage.read(ID) == found
    assert storage.purge(tombstone.expires, 10) == 1


def test_many_tombstones_are_left_whatever_was_there(
    storage: FileCacheStorage, location: Path
) -> None:
    ids = [f"{number % 3:02x}{number:038x}" for number in range(310)]
    for each in ids[::2]:
        storage.fill(make_record(each), now() + HOUR, now())
    path_of(location, ids[0]).write_bytes(b"garbage")

    storage.leave_tombstones(
        [make_tombstone(each, State.ENDED, now=now(), seconds=60) for each in ids], now()
    )

    found = [storage.read(each) for each in ids]
    assert {each and each.state for each in found} == {State.ENDED}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_changed_under_the_lock(
    storage: FileCacheStorage, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Beside it, a copy that has just been compared would replace a logout."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    with (
        storage._locks.hold(ID, make_folders=True),
        pytest.raises(StorageUnavailable, match="lock"),
    ):
        CHANGES[change](storage)

"""A file system that goes away while sessions are on it, and comes back."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.backends.file import SessionStore as DjangoFileStore
from django.test import Client, override_settings

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.migration.sources.files import FileSource
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.testing import now, successor
from tests.disks import CannotMount, Disk, tiny_disk
from tests.migration.previous_backends import at_django
from tests.storages.files.kinds import KINDS, storage_on
from tests.storages.records import HOUR, make_record

ID = "3f" * 20
OTHER_ID = "a0" * 20
OURS = "django_sessionstores.middleware.SessionMiddleware"
FILES = "django.core.cache.backends.filebased.FileBasedCache"


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk() as disk:
        if not disk.is_mountable:
            pytest.skip(str(CannotMount()))
        yield disk


def left_beneath(disk: Disk) -> list[str]:
    assert not disk.path.is_mount()
    return sorted(os.listdir(disk.path))


def assert_unreachable(storage: FileStorage) -> None:
    other = make_record(OTHER_ID, user_id="8")
    for operation in (
        lambda: storage.read(ID),
        lambda: storage.read(OTHER_ID),
        lambda: storage.create(other, now()),
        lambda: storage.update(make_record(ID, version=2), make_record(ID), now()),
        lambda: storage.touch(make_record(ID), now() + 2 * HOUR, now(), now()),
        lambda: storage.delete(ID),
        lambda: storage.end_many([ID, OTHER_ID]),
        lambda: storage.scan("", 10, None),
        lambda: storage.scan("", 10, "7"),
        lambda: storage.count(now(), None),
        lambda: storage.purge(now(), 10),
    ):
        with pytest.raises(StorageUnavailable, match=r"[Mm]ount"):
            operation()


@KINDS
def test_nothing_is_written_beneath_the_mount_point(kind: str, disk: Disk) -> None:
    """An empty folder in place of the sessions has ended none of them."""
    with storage_on(kind, disk.path) as storage:
        storage.create(make_record(ID, user_id="7"), now())
        disk.kill()

        assert_unreachable(storage)
        assert left_beneath(disk) == []

        disk.restart()
        assert storage.read(ID) is not None
        storage.create(make_record(OTHER_ID), now())


@KINDS
@pytest.mark.parametrize("met", [ID, OTHER_ID], ids=["a session", "none"])
def test_a_process_that_has_only_read_knows_the_disk(kind: str, met: str, disk: Disk) -> None:
    with storage_on(kind, disk.path) as storage:
        storage.create(make_record(ID, user_id="7"), now())
    with storage_on(kind, disk.path) as reader:
        reader.read(met)
        disk.kill()
        assert_unreachable(reader)
        assert left_beneath(disk) == []


@KINDS
def test_a_folder_that_others_make_meanwhile_is_not_the_one_of_the_sessions(
    kind: str, disk: Disk
) -> None:
    """A worker that is begun meanwhile cannot know, and takes the site for a new one. Those from
    before must not follow it."""
    with storage_on(kind, disk.path) as storage:
        storage.create(make_record(ID, user_id="7"), now())
        disk.kill()
        with storage_on(kind, disk.path) as worker:
            worker.create(make_record(OTHER_ID), now())
        with pytest.raises(StorageUnavailable, match="mounted"):
            storage.read(ID)

        shutil.rmtree(disk.path, ignore_errors=True)
        disk.path.mkdir(exist_ok=True)
        disk.restart()
        assert storage.read(ID) is not None


@pytest.mark.parametrize("is_copy", [False, True], ids=["others", "copy"])
def test_another_disk_with_sessions_in_its_place(is_copy: bool, tmp_path: Path) -> None:
    """It may be an old copy of the site's, or that of another site. Nobody must be signed out, but
    whoever moves the sessions to a larger disk need not restart the site."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    with storage_on("file", place) as storage:
        with tiny_disk(place):
            storage.create(make_record(ID, user_id="7"), now())
            shutil.copytree(place, kept)
        place.rmdir()
        with tiny_disk(place):
            with storage_on("file", place) as other:
                other.create(make_record(OTHER_ID), now())
            if is_copy:
                shutil.rmtree(storage._folder.path)
                shutil.copytree(kept, place, dirs_exist_ok=True)
                assert storage.read(OTHER_ID) is None
                assert storage.read(ID) is not None
                return
            for operation in (lambda: storage.read(ID), lambda: storage.read("0" * 40)):
                with pytest.raises(StorageUnavailable, match=r"another disk .* restart the site"):
                    operation()
            assert storage.read(OTHER_ID) is not None
            with storage_on("file", place) as restarted:
                assert restarted.read(ID) is None


@KINDS
def test_a_disk_that_is_mounted_read_only_is_still_read(kind: str, tmp_path: Path) -> None:
    """After an error of the disk, the kernel refuses writes. What is on it is not gone."""
    place = tmp_path / "disk"
    with tiny_disk(place) as remount, storage_on(kind, place) as storage:
        remount("ro")
        if kind != "folder itself":  # Nobody knows whether there are sessions.
            with pytest.raises(StorageUnavailable, match="read-only"):
                storage.read(ID)
            assert f"{place} is mounted read-only. Mount" in storage.write_obstacle()
        remount("rw")
        record = make_record(ID, user_id="7")
        storage.create(record, now())
        remount("ro")
        for user in (None, "7"):
            assert len(storage.scan("", 10, user).records) == storage.count(now(), user) == 1
        assert storage.read(ID) is not None
        assert storage.read(OTHER_ID) is None
        for operation in (
            lambda: storage.create(make_record(OTHER_ID), now()),
            lambda: storage.update(successor(record), record, now()),
            lambda: storage.touch(record, now() + 2 * HOUR, now(), now()),
            lambda: storage.delete(ID),
            lambda: storage.purge(now() + 2 * HOUR, 10),
        ):
            with pytest.raises(StorageUnavailable, match=r"Mount its disk for writing\.$"):
                operation()
        assert "is mounted read-only. Mount" in storage.write_obstacle()
        remount("rw")
        assert storage.read(ID) is not None


@pytest.mark.parametrize("name", ["file", "cache", "cached_db"])
@pytest.mark.django_db(transaction=True)  # So that copies are stored, and the folder made.
def test_nobody_is_signed_out_while_the_disk_is_away(name: str, disk: Disk) -> None:
    """``cached_db`` has its database."""
    with override_settings(
        SESSION_ENGINE=f"django_sessionstores.backends.{name}",
        SESSION_FILE_PATH=disk.path,
        CACHES={"default": {"BACKEND": FILES, "LOCATION": disk.path}},
        MIDDLEWARE=[OURS],
        ROOT_URLCONF="tests.urls",
    ):
        client = Client()
        assert client.get("/write/name/1/").status_code == 200
        disk.kill()
        for path in ("/read/", "/write/name/2/", "/read/"):
            response = client.get(path)
            assert response.status_code == (200 if name == "cached_db" else 503)
            assert not response.cookies
        assert left_beneath(disk) == []
        disk.restart()
        assert client.get("/read/").json() == {"name": "2" if name == "cached_db" else "1"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda storage: storage.scan("", 100, None),
        lambda storage: storage.scan("", 100, "7"),
        lambda storage: storage.count(now(), None),
        lambda storage: storage.count(now(), "7"),
        lambda storage: storage.purge(now(), 100),
        lambda storage: storage.purge(now() + 2 * HOUR, 100),
        lambda storage: storage.reindex(),
    ],
    ids=["list", "list of user", "count", "count of user", "vain purge", "purge", "reindex"],
)
def test_a_list_that_is_cut_short_is_not_shown_as_whole(
    ask: Callable[[FileStorage], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes away while it is read has no names left, as if it were at its end."""
    folder = tmp_path / "sessions"
    storage = FileStorage(folder)
    for number in range(10):
        storage.create(make_record(f"{number:02x}" * 20, user_id="7"), now())
    looks = []

    def before_the_sixth(look: Callable[..., Any]) -> Callable[..., Any]:
        def go_away(*args: Any, **options: Any) -> Any:
            looks.append(args)
            if len(looks) == 6:
                folder.rename(tmp_path / "elsewhere")
            return look(*args, **options)

        return go_away

    for name in ("open", "scandir"):
        monkeypatch.setattr(os, name, before_the_sixth(getattr(os, name)))
    with pytest.raises(StorageUnavailable):
        ask(storage)
    assert not folder.exists()


def test_a_folder_that_was_made_by_hand_has_a_whole_index(tmp_path: Path) -> None:
    """The first list must not read all sessions to find out that none is missing."""
    folder = tmp_path / "sessions"
    folder.mkdir()
    storage = FileStorage(folder)
    storage.create(make_record(ID, user_id="7"), now())
    assert storage.index_is_complete()
    shutil.rmtree(folder / "users")
    assert not FileStorage(folder).index_is_complete()
    FileStorage(folder).create(make_record(OTHER_ID, user_id="7"), now())
    assert not FileStorage(folder).index_is_complete()


@pytest.mark.parametrize("way", ["unmounted", "removed"])
def test_djangos_files_go_away_before_they_are_migrated(way: str, disk: Disk) -> None:
    """A user whose session is still there must not be signed out, and a logout not be forgotten."""
    with override_settings(SESSION_FILE_PATH=disk.path):
        key = at_django("file")
        source = FileSource(DjangoFileStore)
        found = source.find(key)
        assert found is not None
        disk.kill()
        if way == "removed":
            disk.path.rmdir()
        for operation in (
            lambda: source.find(key),
            lambda: source.remove(key),
            lambda: source.claim(key, found),
            lambda: source.scan("", 10),
            lambda: source.count(),
        ):
            with pytest.raises(StorageUnavailable, match="previous backend"):
                operation()
        disk.path.mkdir(exist_ok=True)
        disk.restart()
        source.remove(key)
        assert source.find(key) is None
        source.remove(key)

"""Whose the sessions in files are: found without reading all, and right after a kill."""

import errno
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from django_sessionstores.core.records import Record, State, draw_key, make_tombstone, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.files import index_upkeep, purge
from django_sessionstores.storages.files.index import Entry, UserIndex
from django_sessionstores.storages.files.index_upkeep import IndexUpkeep
from django_sessionstores.storages.files.purge import Purge
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.testing import successor

NOW = 1_800_000_000_000
HOUR = 3_600_000


def stored(storage: FileStorage, user_id: str | None = "7", **fields: Any) -> Record:
    values: dict[str, Any] = {
        "id": session_id(draw_key()),
        "user_id": user_id,
        "payload": b"encrypted",
        "created": NOW,
        "last_activity": NOW,
        "expires": NOW + HOUR,
    }
    record = Record(**{**values, **fields})
    assert isinstance(storage.create(record, NOW), Updated)
    return record


def found(storage: FileStorage, user_id: str | None = "7") -> list[str]:
    return [record.id for record in storage.scan("", 1000, user_id).records]


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("users/??/*"))


def records(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[0-9a-f]?/[0-9a-f]*")}


def test_a_users_sessions_are_found_without_reading_those_of_others(storage: FileStorage) -> None:
    """4 seconds for 100,000 files is what reading all takes."""
    mine = sorted(stored(storage).id for _ in range(3))
    for n in range(50):
        stored(storage, str(n + 100))
    opened: list[str] = []
    real = os.open

    def counting(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(str(path))
        return real(path, *args, **kwargs)

    with mock.patch.object(os, "open", counting):
        assert found(storage) == mine
        assert storage.count(NOW, "7") == 3
    assert len(opened) == 6


def test_a_page_reads_what_is_on_it(storage: FileStorage) -> None:
    for _ in range(50):
        stored(storage)
    with mock.patch.object(os, "read", side_effect=os.read) as read:
        storage.scan("", 5, None)
    assert read.call_count == 6  # One more, to know whether there is another page.


@pytest.mark.parametrize("user_id", ["", "a/b", "..", "*", "Ünï", "x" * 300, "CON", "a", "A"])
def test_any_user_id(storage: FileStorage, user_id: str) -> None:
    """None may leave the folder, nor meet another on a file system that ignores case."""
    mine = stored(storage, user_id)
    stored(storage, user_id + "x")

    assert found(storage, user_id) == [mine.id]
    storage.delete(mine.id)
    assert found(storage, user_id) == []


def test_the_index_follows_logins_and_logouts(storage: FileStorage, folder: Path) -> None:
    base = stored(storage, None)
    assert entries(folder) == []
    record = successor(base, user_id="7")
    storage.update(record, base, NOW)
    assert found(storage) == [base.id]
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60, of=record)
    storage.update(tombstone, record, NOW)
    assert found(storage) == []
    assert entries(folder) == []


def test_a_save_by_the_same_user_does_not_touch_the_index(
    storage: FileStorage, folder: Path
) -> None:
    base = stored(storage)
    (entry,) = folder.glob("users/??/*")
    before = entry.stat()
    storage.update(successor(base), base, NOW)
    assert (entry.stat().st_ino, entry.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_folder_without_an_index_gets_one(storage: FileStorage, folder: Path) -> None:
    """One from an earlier version, or from a backup without it: nobody must be out of reach."""
    mine = sorted(stored(storage).id for _ in range(3))
    stored(storage, "8")
    shutil.rmtree(folder / "users")

    assert found(FileStorage(folder)) == mine
    assert len(entries(folder)) == 4
    shutil.rmtree(folder / "users")
    assert FileStorage(folder).reindex() == 4
    assert found(FileStorage(folder)) == mine


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list with an entry for each time that all files are read for the index."""
    begun: list[None] = []
    complete = IndexUpkeep._complete

    def slowly(self: IndexUpkeep) -> int:
        begun.append(None)
        time.sleep(0.3)
        return complete(self)

    monkeypatch.setattr(IndexUpkeep, "_complete", slowly)
    return begun


def test_of_many_requests_one_makes_the_index(
    storage: FileStorage, folder: Path, builds: list[None]
) -> None:
    """Each reads the start of every file: together they would keep the disk busy."""
    mine = sorted(stored(storage).id for _ in range(3))
    shutil.rmtree(folder / "users")
    with ThreadPoolExecutor(8) as pool:
        # Each with a storage of its own, as in as many processes.
        lists = [pool.submit(found, FileStorage(folder)) for _ in range(8)]
        assert [each.result() for each in lists] == [mine] * 8
    assert len(builds) == 1


BUILDER = """
import sys, time
from django_sessionstores.storages.files.index import Entry, UserIndex
from django_sessionstores.storages.files.index_upkeep import IndexUpkeep
from django_sessionstores.storages.files.purge import Purge
from django_sessionstores.storages.files.storage import FileStorage
def hang(self):
    print("began", flush=True)
    time.sleep(60)
IndexUpkeep._complete = hang
FileStorage(sys.argv[1])._upkeep.ensure_complete()
"""


def test_a_request_waits_for_a_builder_but_not_for_ever(
    storage: FileStorage, folder: Path, builds: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the builder is killed, another request takes over at once."""
    mine = stored(storage)
    shutil.rmtree(folder / "users")
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        try:
            assert builder.stdout.readline() == "began\n"
            with monkeypatch.context() as patch:
                patch.setattr(index_upkeep, "LOCK_SECONDS", 0.1)
                with pytest.raises(StorageUnavailable, match="makes the index of users"):
                    found(storage)
            assert builds == []
            assert storage.read(mine.id) is not None
        finally:
            builder.kill()
    assert found(storage) == [mine.id]
    assert len(builds) == 1


def test_an_entry_too_many_shows_nobody_and_goes(storage: FileStorage, folder: Path) -> None:
    """Of a process that was killed between entry and record, or between record and entry."""
    mine, gone, theirs = stored(storage), stored(storage), stored(storage, "8")
    (folder / gone.id[:2] / gone.id).unlink()
    storage._index.add("7", theirs.id)

    assert found(storage) == [mine.id]
    assert len(entries(folder)) == 3  # That of another user has gone.
    storage._index.add("7", session_id(draw_key()))
    while storage.purge(NOW, 10):
        pass
    assert len(entries(folder)) == 2
    assert found(storage, "8") == [theirs.id]


def test_an_entry_stays_if_its_session_begins_while_it_is_being_removed(
    storage: FileStorage, folder: Path
) -> None:
    """There is no shard to lock when the purge looks, and it makes none: the disk may be full."""
    record = Record(id="3f" * 20, user_id="7", payload=b"encrypted", expires=NOW + HOUR)
    stored(storage, "8")
    storage._index.add("7", record.id)
    remove = UserIndex.remove

    def begin_first(self: UserIndex, entry: Entry) -> None:
        storage.create(record, NOW)
        remove(self, entry)

    with mock.patch.object(UserIndex, "remove", begin_first):
        storage.purge(NOW, 10)

    assert found(storage) == [record.id]


def test_purging_clears_the_entries_of_what_expired(storage: FileStorage, folder: Path) -> None:
    for n in range(4):
        stored(storage, str(n), expires=NOW + 1)
    kept = stored(storage)
    assert storage.purge(NOW + 2, 100) == 4
    assert storage.purge(NOW + 2, 100) == 0
    assert len(entries(folder)) == 1
    assert found(storage) == [kept.id]


def purge_all(storage: FileStorage, now: int = NOW) -> int:
    return sum(iter(lambda: storage.purge(now, 1000), 0))


def test_a_purge_that_dies_leaves_each_live_session_its_entry(
    storage: FileStorage, folder: Path
) -> None:
    """The entries of those that have expired go first, so the next purge finds no more of them."""
    kept = [stored(storage, user) for user in ("7", "8")]
    for user in ("7", "8", "9"):
        stored(storage, user, expires=NOW - HOUR)
    with (
        mock.patch.object(Purge, "_remove_expired", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        storage.purge(NOW, 1000)
    assert len(entries(folder)) == 2
    assert [found(storage), found(storage, "8")] == [[each.id] for each in kept]

    assert purge_all(FileStorage(folder)) == 3
    assert len(records(folder)) == len(entries(folder)) == 2


@pytest.mark.parametrize("expired", [NOW - 1, NOW - HOUR], ids=["just now", "long ago"])
@pytest.mark.parametrize("users", [2, 60], ids=["small index", "large index"])
@pytest.mark.parametrize("later", [0, HOUR // 2], ids=["at once", "later"])
@pytest.mark.parametrize("held", [1, 30, purge._HELD], ids=["shards", "parts", "whole"])
def test_a_purge_leaves_no_entries_however_it_is_divided(
    storage: FileStorage,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    expired: int,
    users: int,
    later: int,
    held: int,
) -> None:
    """What has expired when the purge goes on may not have, for sure, when it began."""
    monkeypatch.setattr(purge, "_HELD", held)
    for number in range(120):
        stored(storage, str(number % users), expires=expired if number % 2 else NOW + HOUR)
    storage._index.add("7", "00" * 20)  # Of a killed process.
    removed = storage.purge(NOW, 7)
    while batch := storage.purge(NOW + later, 7):
        removed += batch
        assert {name.split("-")[1] for name in entries(folder)} <= records(folder)
    assert removed == len(entries(folder)) == len(records(folder)) == 60
    assert purge_all(storage, NOW + HOUR) == 60
    assert list(folder.glob("users/[0-9a-f]?")) == []


def test_a_purge_removes_sessions_before_it_has_looked_at_the_whole_folder(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that purges for some seconds would not get to any in a large folder. To know all of
    them at once would take much memory, too."""
    monkeypatch.setattr(purge, "_HELD", 20)
    for number in range(50):
        stored(storage, "7", id=f"{number // 10:02x}{number:038x}", expires=NOW - HOUR)
    assert storage.purge(NOW, 1) == 1
    assert len(entries(folder)) == 30


def test_a_session_that_is_created_again_while_it_is_purged_keeps_its_entry(
    storage: FileStorage, folder: Path
) -> None:
    """Another process has purged it, and it is migrated at once: nobody could end it for all."""
    record = stored(storage, expires=NOW - HOUR)
    remove_all_of = UserIndex.remove_all_of

    def begin_again(self: UserIndex, *args: Any) -> Any:
        (folder / record.id[:2] / record.id).unlink()
        stored(storage, id=record.id)
        return remove_all_of(self, *args)

    with mock.patch.object(UserIndex, "remove_all_of", begin_again):
        assert purge_all(storage) == 0
    assert found(storage) == [record.id]


# The file of the entries ----------------------------------------------------------------------


def files_of_entries(folder: Path) -> int:
    return len({path.stat().st_ino for path in folder.glob("users/??/*")})


def refuse(error: int) -> Any:
    return mock.patch.object(os, "link", side_effect=OSError(error, "refused"))


@pytest.mark.skipif(not hasattr(os, "link"), reason="needs links")
def test_entries_are_names_of_one_file(storage: FileStorage, folder: Path) -> None:
    """On ext4, to make a file takes ten times as long, and to remove it twice as long."""
    for number in range(20):
        stored(storage, str(number))
    assert files_of_entries(folder) == 1


def test_no_file_has_more_names_than_it_can_have(storage: FileStorage, folder: Path) -> None:
    """On ext4, 65,000."""
    stored(storage, "1")
    with refuse(errno.EMLINK):
        stored(storage, "2")
    later = [stored(storage, user) for user in ("3", "4", "3")]
    assert files_of_entries(folder) == 3  # Of the first one, of the second, and of all later ones.
    assert found(storage, "3") == sorted([later[0].id, later[2].id])


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_links_has_files(
    storage: FileStorage, folder: Path, error: int
) -> None:
    """As folders of earlier versions have, and as most backups make of links."""
    linked = stored(storage)
    with refuse(error):
        mine = [linked, *(stored(storage) for _ in range(2))]
        storage._index.add("7", linked.id)  # Again.
        gone = stored(storage, expires=NOW - HOUR)
    assert found(storage) == sorted(each.id for each in [*mine, gone])
    assert files_of_entries(folder) == 4
    assert purge_all(storage) == 1
    storage.delete(mine[1].id)
    assert found(storage) == sorted([mine[0].id, mine[2].id])
    assert len(entries(folder)) == 2


def test_a_purge_beside_another_site_reads_whose_each_session_is(
    storage: FileStorage, folder: Path
) -> None:
    """Of the other site's it removes neither the record nor the entry."""
    stored(storage, expires=NOW - HOUR, site=storage.sites()[0])
    theirs = stored(storage, expires=NOW - HOUR, site=1234)
    assert purge_all(storage) == 1
    assert [name.split("-")[1] for name in entries(folder)] == [theirs.id]


WORKER = """
import sys
from tests.storages.files.test_index import FileStorage, stored, NOW
from django_sessionstores.testing import successor
storage = FileStorage(sys.argv[1])
while True:
    first = stored(storage, None)
    record = successor(first, user_id="7")
    storage.update(record, first, NOW)
    print(first.id, flush=True)
    storage.delete(stored(storage).id)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_every_session_findable(storage: FileStorage, folder: Path) -> None:
    """At whatever call it dies: a login that was answered is in the list, one too many is not."""
    answered: set[str] = set()
    for turn in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            answered.add(worker.stdout.readline().strip())
            time.sleep(0.003 * turn)
            worker.kill()
            answered |= {line.strip() for line in worker.stdout if len(line) == 41}
    listed = found(storage)
    live = {
        path.name
        for path in folder.glob("[0-9a-f][0-9a-f]/*")
        if not path.name.startswith(".") and storage.read(path.name).user_id == "7"  # type: ignore[union-attr]
    }
    assert set(listed) == live
    assert answered <= live
    while storage.purge(NOW, 1000):
        pass
    assert {name.split("-")[1] for name in entries(folder)} == live

"""Numbers of sessions in files: they are true, and hardly any file is opened for them."""

import copy
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from django_sessionstores.core.records import (
    Record,
    State,
    draw_key,
    make_tombstone,
    session_id,
)
from django_sessionstores.core.summary import Numbers, UserCount
from django_sessionstores.storages.base import LITTER_AGE, Updated
from django_sessionstores.storages.files import census, purge
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.testing import successor
from tests.cases import Engine
from tests.management.test_sessions import document

NOW = 1_800_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE


def stored(
    storage: FileStorage, user_id: str | None = "7", expires: int = NOW + HOUR, **fields: Any
) -> Record:
    record = Record(
        **{
            "id": session_id(draw_key()),
            "user_id": user_id,
            "payload": b"encrypted",
            "expires": expires,
            "site": storage.sites()[0],
            **fields,
        }
    )
    assert isinstance(storage.create(record, 0), Updated)
    return record


def path_of(folder: Path, record: Record) -> Path:
    return folder / record.id[:2] / record.id


class Looks:
    """The system calls that look at files of records or of the index, and those that remove."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number: Counter[str] = Counter()
        for name in ("open", "read", "stat", "unlink", "access", "lstat"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Any) -> Any:
        def counted(path: Any, *args: Any, **options: Any) -> Any:
            if name == "read" or len(os.path.basename(path)) >= 40:
                self.number[name] += 1
            return call(path, *args, **options)

        return counted


def counted_by_reading(storage: FileStorage, now: int, most: int) -> Numbers:
    """Return what the numbers are, from all records."""
    records = storage.scan("", 100_000, None).records
    live = [each for each in records if each.expires > now]
    users = Counter(each.user_id for each in live if each.user_id is not None)
    return Numbers(
        live=len(live),
        logged_in=users.total(),
        expired=len(records) - len(live),
        top_users=[UserCount(user, number) for user, number in users.most_common(most)],
    )


def assert_true(storage: FileStorage, now: int = NOW) -> None:
    """The numbers are those of the records, in whichever order users with the same stand."""
    for most in (1, 3, 100):
        numbers, expected = storage.numbers(now, most), counted_by_reading(storage, now, most)
        assert numbers is not None
        assert [each.sessions for each in numbers.top_users] == [
            each.sessions for each in expected.top_users
        ]
        if most == 100:
            assert set(numbers.top_users) == set(expected.top_users)
        assert (numbers.live, numbers.logged_in, numbers.expired) == (
            expected.live,
            expected.logged_in,
            expected.expired,
        )
        assert storage.count(now, None) == expected.live


def test_numbers_are_those_of_the_records(storage: FileStorage, folder: Path) -> None:
    """Whatever sessions have gone through, and whatever a copy has done to their times."""
    draw = random.Random(7)
    for number in range(300):
        user_id = draw.choice([None, "", "7", f"user {number % 40}"])
        record = stored(storage, user_id, NOW + draw.choice([-HOUR, -MINUTE, 0, 1, HOUR]))
        path = path_of(folder, record)
        match draw.choice(["stays", "copied", "touched", "saved", "logs in", "rotated", "ended"]):
            case "copied":
                os.utime(path, (NOW // 1000, draw.choice([1, NOW // 1000, 2 * NOW // 1000])))
            case "touched":
                storage.touch(record, NOW + draw.choice([MINUTE, HOUR]), 0, 0)
            case "saved":
                storage.update(successor(record, expires=NOW + draw.choice([-HOUR, 1])), record, 0)
            case "logs in":
                storage.update(successor(record, user_id=f"user {number % 40}"), record, 0)
            case "rotated":
                storage.update(
                    make_tombstone(record.id, State.ROTATED, now=NOW, seconds=60, of=record),
                    record,
                    0,
                )
            case "ended":
                storage.delete(record.id)
    path_of(folder, stored(storage)).write_bytes(b"damaged")
    storage._index.add("7", session_id("killed before the record was stored"))

    assert_true(storage)
    assert_true(storage, NOW + HOUR // 2)
    while storage.purge(NOW, 7):
        assert_true(storage)


def test_a_count_of_all_opens_no_file(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at each: hundreds of thousands take a second."""
    for number in range(20):
        stored(storage, str(number) if number % 2 else None, NOW + (HOUR if number % 3 else -HOUR))
    looks = Looks(monkeypatch)

    assert storage.count(NOW, None) == 13
    assert looks.number == {"stat": 20}
    looks.number.clear()

    numbers = storage.numbers(NOW, 2)
    assert numbers is not None
    assert (numbers.live, numbers.logged_in, numbers.expired) == (13, 7, 7)
    # The sessions of the two users, to see that they are live, and whose they are.
    assert looks.number == {"stat": 20, "open": 2, "read": 2}


def test_what_may_have_expired_a_moment_ago_is_looked_at(
    storage: FileStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show a time that is some minutes old."""
    record = stored(storage)
    modified = path_of(folder, record).stat().st_mtime_ns
    storage.touch(record, NOW + 2 * HOUR, 0, 0)
    os.utime(path_of(folder, record), ns=(modified, modified))
    stored(storage, None, NOW - HOUR)

    looks = Looks(monkeypatch)
    assert storage.count(NOW + HOUR + MINUTE, None) == 1
    assert looks.number == {"stat": 2, "open": 1, "read": 1}


def test_sessions_of_other_sites_are_not_counted(storage: FileStorage, folder: Path) -> None:
    """Only the records say whose they are, so that they are read once another site is there."""
    stored(storage)
    assert storage.numbers(NOW, 3) is not None
    with mock.patch.object(FileStorage, "sites", return_value=(1234,)):
        other = FileStorage(folder)
        stored(other, "8")
        stored(other, None, NOW - HOUR)
        assert other.numbers(NOW, 3) is None
        assert other.count(NOW, None) == 1
    assert storage.numbers(NOW, 3) is None
    assert storage.count(NOW, None) == 1
    assert storage.purge(NOW, 10) == 0
    assert storage.purge(NOW - HOUR + LITTER_AGE, 10) == 2  # One of its own, and the visitor's.


def test_a_record_that_is_no_sites_leaves_no_mark(storage: FileStorage, folder: Path) -> None:
    """A doctor tries the store with one. The numbers must not need all records ever after."""
    stored(storage)
    probe = copy.copy(storage)
    probe.marked_by = mock.Mock(sites=lambda: (1234,))
    record = stored(probe, None)
    assert record.site == 1234
    assert probe.delete(record.id)
    numbers = storage.numbers(NOW, 3)
    assert numbers is not None
    assert numbers.live == 1


def test_a_folder_without_an_index_is_read(storage: FileStorage, folder: Path) -> None:
    """It may be a copy of one that several sites have used; the next index finds them."""
    stored(storage)
    with mock.patch.object(FileStorage, "sites", return_value=(1234,)):
        stored(FileStorage(folder), "8")
    for each in sorted((folder / "users").rglob("*"), reverse=True):
        each.unlink() if each.is_file() else each.rmdir()
    again = FileStorage(folder)
    assert again.numbers(NOW, 3) is None
    assert again.count(NOW, None) == 1
    again.reindex()
    assert again.numbers(NOW, 3) is None


def test_entries_too_many_put_nobody_at_the_top(storage: FileStorage) -> None:
    """Those that killed processes have left; the records decide."""
    for user_id in ("7", "8", "8", "9", "9", "9"):
        stored(storage, user_id)
    for number in range(5):
        storage._index.add("7", session_id(f"nobody's {number}"))
    numbers = storage.numbers(NOW, 2)
    assert numbers is not None
    assert numbers.top_users == [UserCount("9", 3), UserCount("8", 2)]


def test_a_folder_that_was_made_again_knows_its_sites(storage: FileStorage, folder: Path) -> None:
    """Processes go on that have noted their site in the folder from before."""
    stored(storage)
    with mock.patch.object(FileStorage, "sites", return_value=(1234,)):
        other = FileStorage(folder)
        stored(other, "8")
    shutil.rmtree(folder)
    folder.mkdir()
    stored(storage, id="00" * 20)
    assert storage.numbers(NOW, 3) is not None
    with mock.patch.object(FileStorage, "sites", return_value=(1234,)):
        stored(other, "8", id="11" * 20)
    assert storage.numbers(NOW, 3) is None
    assert storage.count(NOW, None) == 1


def test_too_many_expired_sessions_are_not_kept_in_memory(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "_MOST_ENDED", 3)
    stored(storage, None, NOW - HOUR)
    for _ in range(3):
        assert storage.numbers(NOW, 3) is not None
        stored(storage, "7", NOW - HOUR)
    assert storage.numbers(NOW, 3) is None
    assert storage.count(NOW, None) == 0


@pytest.mark.parametrize("held", [1, 10, purge._HELD], ids=["shards", "parts", "whole"])
def test_a_purge_opens_no_file(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """And looks once at what stays, and at no entry."""
    for number in range(30):
        stored(storage, "7" if number % 2 else None, NOW + (HOUR if number < 10 else -HOUR))
    monkeypatch.setattr(purge, "_HELD", held)
    looks = Looks(monkeypatch)

    assert storage.purge(NOW, 1000) == 20
    assert storage.purge(NOW, 1000) == 0
    assert looks.number == {
        "stat": 30 + 20,  # Once more before it is removed unread.
        "unlink": 20 + 10,
    }


def test_what_is_used_before_it_is_removed_unread_stays(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held from the second look on."""
    record = stored(storage, None, NOW - HOUR)
    remove = storage._purge._remove_expired

    def remove_late(*args: Any) -> int:
        storage.touch(record, NOW + HOUR, 0, NOW - 2 * HOUR)
        return remove(*args)

    monkeypatch.setattr(storage._purge, "_remove_expired", remove_late)
    assert storage.purge(NOW, 10) == 0
    assert storage.read(record.id) is not None


def test_a_time_that_looks_like_a_hint_removes_nothing(storage: FileStorage, folder: Path) -> None:
    """Among very many files that were copied without their times, one may have such a time."""
    record, expired = stored(storage, None), stored(storage, None, NOW - HOUR)
    modified = path_of(folder, expired).stat().st_mtime_ns
    os.utime(path_of(folder, record), ns=(modified, modified))
    assert storage.count(NOW, None) == 0

    assert storage.purge(NOW, 10) == 1
    assert storage.read(record.id) is not None
    assert storage.count(NOW, None) == 1  # The time is right again.


def test_a_read_does_not_write_the_time_of_access(storage: FileStorage, folder: Path) -> None:
    """With the mount option ``relatime``, the kernel writes it if it is not after the
    modification, which is in the future."""
    record = stored(storage)
    for _ in range(2):
        before = path_of(folder, record).stat().st_atime_ns
        assert storage.read(record.id) is not None
        assert path_of(folder, record).stat().st_atime_ns == before
        storage.touch(record, NOW + 2 * HOUR, 0, 0)


@pytest.mark.engines("file", "db:sqlite")
def test_the_command_says_the_same_whether_it_reads_all_or_not(engine: Engine) -> None:
    for number in range(12):
        session = engine.SessionStore()
        if number % 3:
            session["_auth_user_id"] = str(number % 2)
        session.save()
    stats = document("stats")
    assert (stats["live"], stats["logged_in"], stats["anonymous"]) == (12, 8, 4)
    assert sorted(each["sessions"] for each in stats["top_users"]) == [4, 4]
    assert stats["top_users_exact"] is True

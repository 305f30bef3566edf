"""What a registry remembers of a session's saves, and when it forgets."""

import pytest

from django_sessionstores.core.records import Change, Changes
from django_sessionstores.exceptions import SessionConflict
from django_sessionstores.storages.registered.journal import MOST_BYTES, MOST_SAVES, Journal, Save


def saved(journal: Journal, version: int, at: int, cutoff: int, **changes: bytes) -> Journal:
    """Return the journal after a save; each change under the name of its key, in place of a
    digest."""
    named: Changes = tuple((key.encode(), change) for key, change in changes.items())
    return journal.add(Save(version, at, mark(version)), named, cutoff)


def mark(version: int) -> bytes:
    return f"mark {version}".encode()


def since(journal: Journal, version: int) -> list[bytes] | None:
    """Return the changes after a version; None where it is forgotten."""
    found = journal.changes_since(version, mark(version))
    return None if found is None else [change.encrypted for change in found]


@pytest.fixture
def begun() -> Journal:
    return Journal.start(Save(1, 0, mark(1)))


def test_a_save_is_forgotten_by_when_it_was_superseded(begun: Journal) -> None:
    """A session that was quiet for an hour: a request that began a second before the next save
    still carries the cookie from an hour ago."""
    journal = saved(begun, 2, 1000, 500, a=b"2")
    assert since(journal, 1) == [b"2"]
    journal = saved(journal, 3, 2000, 1000, b=b"3")
    assert since(journal, 1) is None
    assert since(journal, 2) == [b"3"]


def test_a_clock_that_is_behind_makes_nothing_older() -> None:
    """Servers' clocks differ. What was saved after another save is not older than that."""
    journal = Journal.start(Save(1, 1000, mark(1)))
    journal = saved(journal, 2, 400, 0, a=b"2")
    assert not journal.is_quiet(999)
    journal = saved(journal, 3, 1100, 500, b=b"3")
    assert since(journal, 1) == [b"2", b"3"]


def test_what_nobody_can_ask_for_is_not_kept(begun: Journal) -> None:
    """Entries have to stay small, however many keys a session has had."""
    journal = begun
    for version in range(2, 50):
        at = version * 1000
        journal = saved(journal, version, at, at - 1500, **{f"key {version}": b"x"})
    assert len(journal.saves) == len(journal.changes) + 1 == 3


def test_a_key_is_there_once(begun: Journal) -> None:
    """A value that is saved often takes the room of one."""
    journal = saved(begun, 2, 1, 0, cart=b"two", other=b"other")
    journal = saved(journal, 3, 2, 0, cart=b"three")
    assert since(journal, 1) == [b"other", b"three"]
    assert since(journal, 2) == [b"three"]
    assert since(journal, 3) == []


def test_the_newest_change_comes_last(begun: Journal) -> None:
    """One key may stand under two digests while the secret changes: the later value must win."""
    journal = saved(begun, 2, 1, 0, under_the_new_secret=b"z")
    journal = saved(journal, 3, 2, 0, under_the_old_secret=b"a")
    assert journal.changes_since(1, mark(1)) == (Change(2, b"z"), Change(3, b"a"))


def test_another_save_of_the_same_version_is_unknown(begun: Journal) -> None:
    """One that failed, or was rolled back, after its cookie was made."""
    journal = saved(begun, 2, 1, 0, a=b"2")
    assert journal.changes_since(2, b"another") is None


def test_each_key_of_the_creation_is_known(begun: Journal) -> None:
    """Several requests may migrate a session at once, each to a key of its own."""
    created = Journal.start(Save(1, 0, b""))
    assert created.creation == created.newest_save
    journal = saved(created, 2, 1, 0, a=b"2")
    assert since(journal, 1) == [b"2"]
    assert journal.changes_since(2, b"another") is None
    assert journal.creation == created.creation
    assert saved(journal, 3, 3, 2).creation is None
    assert begun.creation is None


def test_too_much_is_refused_and_not_forgotten(begun: Journal) -> None:
    """Exactly at the bound it fits."""
    journal = saved(begun, 2, 1, 0, a=b"x" * (MOST_BYTES - 1))
    with pytest.raises(SessionConflict):
        saved(journal, 3, 2, 0, b=b"x")
    assert since(saved(journal, 3, 2, 0, a=b"x"), 1) == [b"x"]


def test_the_number_of_saves_has_a_bound(begun: Journal) -> None:
    """Somebody who saves all the time, as a script does that sends one old cookie, must not make
    each save cost more than the one before."""
    journal, sizes = begun, []
    for version in range(2, 3 * MOST_SAVES):
        journal = saved(journal, version, 1_800_000_000_000, 0, **{f"key {version % 7}": b"x" * 50})
        sizes.append(len(journal.pack()))
    newest = 3 * MOST_SAVES - 1
    assert len(journal.saves) == MOST_SAVES
    assert max(sizes) < 16_384
    assert max(sizes[-MOST_SAVES:]) <= max(sizes[:-MOST_SAVES]) + 2 * MOST_SAVES
    # What is left can be brought up to date, and what is not left is unknown.
    oldest = newest - MOST_SAVES + 1
    assert len(since(journal, oldest) or []) == 7
    assert since(journal, oldest - 1) is None
    assert since(journal, newest) == []


def test_no_change_is_forgotten_before_the_save_that_needs_it(begun: Journal) -> None:
    """A key that was changed once, long ago, by the first save that is still known."""
    journal = begun
    for version in range(2, MOST_SAVES + 10):
        name = f"key {version}" if version < 20 else "other"
        journal = saved(journal, version, 1, 0, **{name: b"%d" % version})
    oldest = journal.saves[0].version
    assert oldest == 10
    assert since(journal, oldest) == [*(b"%d" % n for n in range(11, 20)), b"%d" % (MOST_SAVES + 9)]


def test_the_whole_entry_has_a_bound(begun: Journal) -> None:
    """Many keys with tiny values take more for their digests than for what they hold."""
    journal, version = begun, 1
    with pytest.raises(SessionConflict, match="MERGE_WINDOW"):  # noqa: PT012
        while True:
            version += 1
            changes = tuple((b"%016d" % (version * 100 + n), b"x" * 30) for n in range(100))
            journal = journal.add(Save(version, 1, mark(version)), changes, 0)
    assert version > 5
    assert len(journal.pack()) < 2 * MOST_BYTES


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x92\x90\x80", b"\xff" * 20])
def test_damaged_bytes_are_no_journal(data: bytes) -> None:
    """Then nothing is known of any cookie, and no request breaks."""
    assert Journal.unpack(data) is None


def test_packing(begun: Journal) -> None:
    """A journal comes back unchanged, and is small."""
    journal = saved(begun, 2, 1, 0, a=b"2")
    assert Journal.unpack(journal.pack()) == journal
    assert len(begun.pack()) < 30

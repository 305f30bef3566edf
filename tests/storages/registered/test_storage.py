"""A registry beside memcached: what has no entry has ended, and nothing is lost on the way."""

import asyncio
import random
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

import msgspec
import pytest
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.backends import cookie
from django_sessionstores.conf import codec
from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import run
from django_sessionstores.core.records import (
    Change,
    Record,
    State,
    draw_key,
    make_tombstone,
    session_id,
)
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    SessionEnded,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.inventory import Inventory
from django_sessionstores.models import StoredSession
from django_sessionstores.payloads.codec import newest_data
from django_sessionstores.payloads.merge import MISSING
from django_sessionstores.storages import revocation
from django_sessionstores.storages.base import Conflict, Gone, Storage, Taken, Updated
from django_sessionstores.storages.cookie import CookieStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.registered import RegisteredStorage, late_saves
from django_sessionstores.storages.registered.entries import without_entry
from django_sessionstores.storages.tombstones import leave_tombstone
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed
from tests.sessions.test_lifetimes import limits

Make = Callable[..., Record]
MINE, THEIRS = "a" * 40, "b" * 40


@pytest.fixture
def pair() -> RegisteredStorage:
    """Memory for both: which store it is makes no difference to what is done in which order."""
    return RegisteredStorage(MemoryStorage(100), MemoryStorage(100), window=60)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def store(request: pytest.FixtureRequest, pair: RegisteredStorage) -> Any:
    return Twin(pair, request.param)


def new(**fields: Any) -> Record:
    moment = now()
    values: dict[str, Any] = {
        "id": session_id(draw_key()),
        "payload": b"encrypted",
        "user_id": "7",
        "created": moment,
        "last_activity": moment,
        "expires": moment + HOUR,
    }
    return Record(**values | fields)


def stored(store: Any, **fields: Any) -> Record:
    record = new(**fields)
    assert isinstance(store.create(record, now()), Updated)
    held = store.read(record.id)
    assert isinstance(held, Record)
    return held


def after(base: Record, **changes: Any) -> Record:
    fields = {"version": base.version + 1, "handle": None, **changes}
    return msgspec.structs.replace(base, **fields)


def break_at(*names: str) -> Callable[[str], None]:
    def hook(name: str) -> None:
        if name in names:
            raise StorageUnavailable(f"{name} is broken")

    return hook


# Entries ------------------------------------------------------------------------------------------


def test_an_entry_has_no_payload(pair: RegisteredStorage, store: Any) -> None:
    """It is small, and tells whoever reads the registry no more than who is logged in."""
    record = stored(store)
    entry = pair.registry.read(record.id)
    assert entry is not None
    assert entry.payload == b""
    assert (entry.user_id, entry.expires) == (record.user_id, record.expires)


@pytest.mark.parametrize("ended", [True, False], ids=["deleted", "rotated"])
def test_a_save_after_an_end_in_the_same_transaction_of_the_registry(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """The data stays until the transaction commits, because it may be rolled back."""
    base = stored(store)
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: True)
    committed: list[Callable[[], object]] = []
    monkeypatch.setattr(pair.registry, "after_commit", committed.append)
    if ended:
        assert store.delete(base.id)
    else:
        record = new()
        tombstone = make_tombstone(
            base.id, State.SUPERSEDED, now=now(), seconds=60, successor=record.id
        )
        assert isinstance(store.rotate(record, base, tombstone, now()), Updated)
    outcome = store.update(after(base, payload=b"too late"), base, now())
    assert isinstance(outcome, Gone if ended else Conflict)
    for action in committed:
        action()
    assert pair.data.read(base.id) is None or not ended


def test_what_is_refused_in_a_transaction_of_the_registry_is_told(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is stored is told as stored, although the data follows with the commit."""
    base, taken = stored(store), stored(store)
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: True)
    monkeypatch.setattr(pair.registry, "after_commit", lambda action: None)
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60, successor=taken.id)
    assert isinstance(store.rotate(new(id=taken.id), base, tombstone, now()), Taken)
    assert store.read(base.id).state is State.LIVE
    assert store.read(taken.id).user_id == taken.user_id
    left = make_tombstone(session_id(draw_key()), State.ENDED, now=now(), seconds=60)
    assert isinstance(store.create(left, now()), Updated)


def test_a_record_without_an_entry_has_ended(pair: RegisteredStorage, store: Any) -> None:
    """Ending a session is deleting its entry, whatever the store of the data still has."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert pair.data.read(record.id) is not None
    assert store.read(record.id) is None


def test_deleting_ends_a_session_even_if_its_data_is_unreachable(
    pair: RegisteredStorage, store: Any
) -> None:
    """A logout while a node of memcached is away must hold when it is back."""
    record = stored(store)
    with observed(pair.data, before=break_at("delete")), pytest.raises(StorageUnavailable):
        store.delete(record.id)
    assert store.read(record.id) is None


def test_many_have_ended_even_if_their_data_is_unreachable(
    pair: RegisteredStorage, store: Any
) -> None:
    """Their entries are gone. An error would leave the caller without knowing whom to tell of."""
    ids = [stored(store).id for _ in range(3)]
    with observed(pair.data, before=break_at("end_many")):
        assert sorted(store.end_many(ids)) == sorted(ids)
    assert [store.read(each) for each in ids] == [None] * 3
    with observed(pair.registry, before=break_at("end_many")), pytest.raises(StorageUnavailable):
        store.end_many([stored(store).id])


def test_many_that_end_take_one_call_of_each_storage(pair: RegisteredStorage, store: Any) -> None:
    ids = [stored(store).id for _ in range(3)]
    with observed(pair.data) as of_data, observed(pair.registry) as of_registry:
        store.end_many(ids)
    assert (of_data, of_registry) == (["end_many"], ["end_many"])


def test_many_whose_end_is_not_committed_keep_their_data(
    pair: RegisteredStorage, store: Any, hooks: Any
) -> None:
    """A rollback brings the entries back, and must find the data."""
    ids = [stored(store).id for _ in range(3)]
    assert sorted(store.end_many(ids)) == sorted(ids)
    assert all(pair.data.read(each) for each in ids)
    for hook in hooks:
        hook()
    assert [pair.data.read(each) for each in ids] == [None] * 3


def test_a_registry_that_does_not_answer_is_an_outage(pair: RegisteredStorage, store: Any) -> None:
    """The session is neither logged out nor accepted, because the registry might have ended it."""
    record = stored(store)
    with observed(pair.registry, before=break_at("read")), pytest.raises(StorageUnavailable):
        store.read(record.id)
    assert store.read(record.id) is not None


def test_an_unknown_id_does_not_ask_the_registry(pair: RegisteredStorage, store: Any) -> None:
    """Scanners cost one round trip, not two."""
    with observed(pair.registry) as calls:
        assert store.read(session_id(draw_key())) is None
    assert calls == []


# Saves --------------------------------------------------------------------------------------------


def test_a_save_does_not_write_the_registry(pair: RegisteredStorage, store: Any) -> None:
    """Only what the entry says has to be kept up."""
    record = stored(store)
    with observed(pair.registry) as calls:
        outcome = store.update(after(record, payload=b"new"), record, now())
    assert isinstance(outcome, Updated)
    assert calls == []


@pytest.mark.parametrize(
    "change",
    [{"user_id": "8"}, {"expires": 4_000_000_000_000}, {"ip": "::1"}, {"user_agent": "another"}],
    ids=str,
)
def test_the_entry_follows(pair: RegisteredStorage, store: Any, change: dict[str, Any]) -> None:
    """Otherwise lists would show the user who was logged in at first."""
    record = stored(store)
    (name,) = change
    for number in range(2):
        outcome = store.update(after(record, **change), record, now())
        assert isinstance(outcome, Updated), number
        record = outcome.record
    entry = pair.registry.read(record.id)
    assert entry is not None
    assert getattr(entry, name) == change[name]


@pytest.mark.parametrize("is_known", [False, True], ids=["create", "update"])
def test_a_tombstone_can_be_replaced_whose_entry_was_purged(
    pair: RegisteredStorage, store: Any, is_known: bool
) -> None:
    """A lock is one: who cannot replace it would wait for it in vain. What the data has of it does
    not count."""
    moment = now()
    previous = make_tombstone("a" * 40, State.ENDED, now=moment, seconds=60)
    assert isinstance(store.create(previous, moment), Updated)
    pair.registry.purge(moment + DAY, 10)
    assert store.lookup(previous.id) is None
    assert store.lookup_many([previous.id]) == {}
    later = msgspec.structs.replace(previous, version=previous.version + 1)
    if is_known:
        assert isinstance(store.update(later, previous, moment), Updated)
    else:
        assert isinstance(store.create(later, moment), Updated)
    assert store.lookup(previous.id).version == later.version
    assert not isinstance(store.update(later, previous, moment), Updated)


def test_a_session_that_has_ended_in_the_middle_of_a_rotation_is_superseded(
    pair: RegisteredStorage, store: Any
) -> None:
    """As by a login of another user, so that a request with the old key keeps its cookie."""
    base = stored(store)
    record, _, tombstone, moment = aged_rotation(base)
    pair.data.rotate(record, without_entry(base), tombstone, moment)
    assert store.delete(base.id)
    left = make_tombstone(base.id, State.SUPERSEDED, now=moment, seconds=60, successor="b" * 40)
    assert run(leave_tombstone(pair, left, replace=True)).is_stored
    assert store.read(base.id).successor == "b" * 40


def test_a_tombstone_is_replaced_in_both(pair: RegisteredStorage, store: Any) -> None:
    """The registry's tombstone of a session has a version of its own."""
    moment = now()
    previous = make_tombstone("a" * 40, State.ENDED, now=moment, seconds=60)
    pair.registry.create(previous, moment)
    pair.data.create(after(previous), moment)
    later = msgspec.structs.replace(after(after(previous)), expires=moment + DAY)
    held = store.lookup(previous.id)
    with observed(pair.registry) as calls:
        assert isinstance(store.update(later, held, moment), Updated)
    assert calls == ["update"]
    for storage in (pair.data, pair.registry):
        left = storage.read(previous.id)
        assert left is not None
        assert left.expires == later.expires


def test_two_saves_that_move_the_entry(pair: RegisteredStorage, store: Any) -> None:
    """The later one follows the entry of the earlier one; neither loses."""
    record = stored(store)
    first = store.update(after(record, ip="::1"), record, now())
    conflict = store.update(after(record, ip="::2"), record, now())
    assert isinstance(first, Updated)
    assert isinstance(conflict, Conflict)
    current = conflict.current
    assert isinstance(store.update(after(current, ip="::2"), current, now()), Updated)
    entry = pair.registry.read(record.id)
    assert entry is not None
    assert entry.ip == "::2"


def test_a_save_of_an_ended_session_that_moves_its_entry(
    pair: RegisteredStorage, store: Any
) -> None:
    """It must not be answered as saved."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert isinstance(store.update(after(record, ip="::1"), record, now()), Gone)


def test_a_touch_moves_both(pair: RegisteredStorage, store: Any) -> None:
    """Otherwise the entry would expire while the session is in use."""
    record = stored(store)
    assert store.touch(record, record.expires + DAY, now(), now())
    for storage in (pair.data, pair.registry):
        held = storage.read(record.id)
        assert held is not None
        assert held.expires == record.expires + DAY


def test_a_touch_of_an_ended_session(pair: RegisteredStorage, store: Any) -> None:
    """The touch reports that it did nothing."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert not store.touch(record, record.expires + DAY, now(), now())


def superseded(pair: RegisteredStorage, base: Record) -> bool:
    """Return whether the registry says of a session that it got another id."""
    entry = pair.registry.read(base.id)
    return entry is not None and entry.state is State.SUPERSEDED


# After a commit -----------------------------------------------------------------------------------

SECRET = "card number"


@pytest.fixture
def hooks(pair: RegisteredStorage, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Return the calls to make when the transaction of the registry commits. Only the registry has
    one."""
    hooks: list[Callable[[], object]] = []
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: True)
    monkeypatch.setattr(pair.registry, "after_commit", hooks.append)
    return hooks


@pytest.fixture
def rotated(pair: RegisteredStorage, store: Any, hooks: Any) -> Callable[..., Callable[[], Any]]:
    """Rotates a session in a transaction, and saves it under its old id meanwhile.

    Returns a function that commits, and returns what is stored under the new id.
    """

    def rotate(before: Any, mine: Any, theirs: Any) -> Callable[[], Any]:
        old, record = session_id(draw_key()), new()
        base = stored(store, id=old, payload=encrypted(old, before))
        record = msgspec.structs.replace(record, payload=encrypted(record.id, mine))
        tombstone = make_tombstone(
            old, State.SUPERSEDED, now=now(), seconds=60, successor=record.id
        )
        assert isinstance(store.rotate(record, base, tombstone, now()), Updated)
        held = pair.data.read(old)
        assert held is not None
        pair.data.update(after(held, payload=encrypted(old, theirs)), held, now())

        def commit() -> Any:
            for hook in hooks:
                hook()
            current = pair.data.read(record.id)
            assert current is not None
            return codec().deserialize(codec().decrypt(record.id, current.payload))

        return commit

    return rotate


def encrypted(record_id: str, data: Any) -> bytes:
    return codec().encrypt(record_id, codec().serialize(data))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, which shows nothing of the sessions but ids."""
    messages = [each.getMessage() for each in caplog.records]
    assert SECRET not in caplog.text
    assert all("Session " in each for each in messages)
    return messages


def refuse(*values: Any) -> Any:
    raise ZeroDivisionError(SECRET)


@pytest.mark.parametrize("function", [refuse, lambda *values: object()], ids=["raises", "value"])
def test_a_merge_function_that_fails_after_a_commit(
    settings: Any, rotated: Any, caplog: pytest.LogCaptureFixture, function: Any
) -> None:
    """The request has been answered. An error would skip what the project does at the commit."""
    settings.SESSIONSTORES = {
        "MERGE": {
            "n": function,
            "sum": lambda base, mine, theirs: mine + theirs - base,
            "gone": lambda *values: MISSING,
        }
    }
    commit = rotated(
        {"n": 0, "sum": 0, "gone": 0},
        {"n": 1, "sum": 1, "gone": 1, "mine": SECRET},
        {"n": 2, "sum": 1, "gone": 2, "theirs": SECRET},
    )
    assert commit() == {"n": 2, "sum": 2, "mine": SECRET, "theirs": SECRET}
    (warning,) = warnings_of(caplog)
    assert "merge function" in warning


@pytest.mark.parametrize("knows", [True, False], ids=["told", "found out"])
def test_changes_that_do_not_fit_together_after_a_commit(
    pair: RegisteredStorage,
    rotated: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    knows: bool,
) -> None:
    """Those that fit are kept, and who is signed in stays one fact."""
    update = pair.data.update

    def limited(record: Record, *args: Any) -> Any:
        if len(record.payload) > 500:
            raise PayloadTooLarge(SECRET)
        return update(record, *args)

    mine = random.randbytes(300)  # Which cannot be compressed.
    commit = rotated(
        {"gone": 1},
        {"gone": 1, "mine": mine},
        {
            "large": random.randbytes(300),
            "_auth_user_id": "1",
            "_auth_user_hash": "h",
            "small": SECRET,
        },
    )
    if knows:
        pair.data.max_payload = 500
    else:
        monkeypatch.setattr(pair.data, "update", limited)
    assert commit() == {
        "mine": mine,
        "_auth_user_id": "1",
        "_auth_user_hash": "h",
        "small": SECRET,
    }
    (warning,) = warnings_of(caplog)
    assert "too large" in warning


def test_changes_that_fit_one_by_one_after_a_commit(
    pair: RegisteredStorage, rotated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Another request has made room meanwhile. Nothing is lost, so nothing is said."""
    commit = rotated({"n": 0}, {"n": 1}, {"n": 0, "x": 1, "y": 2})
    update, failures = pair.data.update, iter([None, PayloadTooLarge(SECRET)])

    def limited(*args: Any) -> Any:
        if error := next(failures, None):
            raise error
        return update(*args)

    with mock.patch.object(pair.data, "update", limited):
        assert commit() == {"n": 1, "x": 1, "y": 2}
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [(StorageUnavailable("an outage"), "an outage"), (ValueError(SECRET), "ValueError")],
    ids=["outage", "unknown"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_of_the_store_after_a_commit(
    pair: RegisteredStorage,
    rotated: Any,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    said: str,
    place: int,
) -> None:
    """It is logged and not raised: at the tombstone, and at what others have saved."""
    commit = rotated({"n": 0}, {"n": 1}, {"n": 0, "theirs": SECRET})
    calls = iter(range(100))

    def fail(name: str) -> None:
        if next(calls) == place:
            raise error

    with observed(pair.data, before=fail):
        assert commit() == {"n": 1}
    (warning,) = warnings_of(caplog)
    assert said in warning


def test_what_cannot_be_read_after_a_commit(
    rotated: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved by a worker with a newer key, perhaps."""
    commit = rotated({"n": 0}, {"n": 1}, {"n": 0, "theirs": SECRET})
    unreadable = mock.Mock(side_effect=UnreadablePayload("the reason"))
    monkeypatch.setattr(late_saves, "newest_data", unreadable)
    assert commit() == {"n": 1}
    (warning,) = warnings_of(caplog)
    assert "the reason" in warning


def test_a_tombstone_in_place_of_a_session_that_was_saved_since(
    pair: RegisteredStorage, store: Any, hooks: list[Callable[[], object]]
) -> None:
    """The entry has a version of its own, so that of the data does not matter at the commit."""
    base = stored(store)
    assert isinstance(store.update(after(base, payload=b"newer"), base, now()), Updated)
    over = make_tombstone(base.id, State.ENDED, now=now(), seconds=60, of=base)
    assert isinstance(store.update(over, store.lookup(base.id), now()), Updated)
    for hook in hooks:
        hook()
    assert live_ids(pair.data, base) == live_ids(pair.registry, base) == []


def test_an_unknown_error_of_the_store_after_a_commit(
    pair: RegisteredStorage, store: Any, hooks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a third party's storage, perhaps. The session has ended, whatever becomes of its data."""
    record = stored(store)
    store.delete(record.id)
    with mock.patch.object(pair.data, "delete", side_effect=ValueError(SECRET)):
        for hook in hooks:
            hook()
    (warning,) = warnings_of(caplog)
    assert record.id in warning
    assert store.read(record.id) is None


# Rotation -----------------------------------------------------------------------------------------


def rotation(base: Record) -> tuple[Record, Record, Record, int]:
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)
    return new(user_id="8"), base, tombstone, now()


def test_rotation_moves_the_entry(pair: RegisteredStorage, store: Any) -> None:
    """A list shows the session once, under its new id."""
    base = stored(store)
    record, *rest = rotation(base)
    assert isinstance(store.rotate(record, *rest), Updated)
    assert store.read(record.id).user_id == "8"
    assert store.read(base.id).state is State.SUPERSEDED
    assert superseded(pair, base)


def test_a_rotated_record_can_be_updated(pair: RegisteredStorage, store: Any) -> None:
    """The same request may save again."""
    record, *rest = rotation(stored(store))
    rotated = store.rotate(record, *rest).record
    assert isinstance(store.update(after(rotated, ip="::1"), rotated, now()), Updated)


def test_a_rotation_that_fails_leaves_the_session(pair: RegisteredStorage, store: Any) -> None:
    """The browser still has the old key, and nobody has the new one."""
    base = stored(store)
    record, *rest = rotation(base)
    with observed(pair.data, before=break_at("rotate")), pytest.raises(StorageUnavailable):
        store.rotate(record, *rest)
    assert store.read(base.id).state is State.LIVE
    assert store.read(record.id) is None
    assert pair.registry.read(record.id) is None


@pytest.mark.parametrize("broken", [["rotate"], ["rotate", "delete"]], ids=["refused", "left over"])
def test_a_rotation_that_the_registry_refuses_is_undone(
    pair: RegisteredStorage, store: Any, broken: list[str]
) -> None:
    """It may be full. A save that raised changed nothing, and can be tried again."""
    base = stored(store)
    record, *rest = aged_rotation(base)
    with (
        observed(pair.registry, before=break_at("rotate")),
        observed(pair.data, before=break_at(*broken[1:])),
        pytest.raises(StorageUnavailable, match="rotate is broken"),
    ):
        store.rotate(record, *rest)
    assert live_ids(store, base, record) == live_ids(pair.registry, base, record) == [base.id]
    held = store.read(base.id)
    assert held.payload == base.payload
    assert isinstance(store.rotate(record, base, *rest[1:]), Taken if broken[1:] else Conflict)
    assert isinstance(store.rotate(new(), held, *rest[1:]), Updated)


def test_a_rotation_whose_answer_by_the_registry_was_lost(
    pair: RegisteredStorage, store: Any
) -> None:
    """It is done: answered as an outage, the browser would keep a key that is over."""
    base = stored(store)
    record, *rest = rotation(base)
    tombstone = msgspec.structs.replace(rest[1], payload=bytes.fromhex(record.id))
    with observed(pair.registry, after=break_at("rotate")):
        assert isinstance(store.rotate(record, base, tombstone, now()), Updated)
    assert live_ids(store, base, record) == live_ids(pair.registry, base, record) == [record.id]


def cancel_at(place: int) -> Callable[[str], None]:
    """Return a hook that cancels at one of the calls, by its number."""
    places = count()

    def hook(name: str) -> None:
        if next(places) == place:
            raise CancelledError

    return hook


def aged_rotation(base: Record) -> tuple[Record, Record, Record, int]:
    """Return the arguments of a rotation after which the session is the same one."""
    record = new(created=base.created, origin=base.lineage, version=base.version + (1 << 32))
    tombstone = make_tombstone(
        base.id, State.ROTATED, now=now(), seconds=60, of=base, successor=record.id
    )
    return record, base, tombstone, now()


def live_ids(part: Any, *records: Record) -> list[str]:
    found = [part.read(each.id) for each in records]
    return [each.id for each in found if each is not None and each.state is State.LIVE]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rotation_that_is_cancelled_leaves_the_entry_of_its_data(
    pair: RegisteredStorage, when: str
) -> None:
    """At whichever call. The other entry would hide the session from lists, and from an end."""
    for place in count():
        base = stored(pair)
        record, *rest = aged_rotation(base)
        hooks: dict[str, Any] = {when: cancel_at(place)}
        try:
            with observed(pair.data, pair.registry, **hooks):
                asyncio.run(pair.arotate(record, *rest))
        except CancelledError:
            assert live_ids(pair.registry, base, record) == live_ids(pair.data, base, record)
        else:
            break
    assert place > 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_create_that_is_cancelled_leaves_no_entry_without_data(
    pair: RegisteredStorage, when: str
) -> None:
    """Nor data without its entry, which other requests may have found meanwhile."""
    for place in count():
        record = new()
        hooks: dict[str, Any] = {when: cancel_at(place)}
        try:
            with observed(pair.data, pair.registry, **hooks):
                asyncio.run(pair.acreate(record, now()))
        except CancelledError:
            assert live_ids(pair.registry, record) == live_ids(pair.data, record)
        else:
            break
    assert place > 1


def test_a_create_that_is_cancelled_leaves_the_session_of_another_request(
    pair: RegisteredStorage,
) -> None:
    """Two requests may migrate the same session from a previous backend at the same time."""
    base = stored(pair)
    with observed(pair.registry, after=cancel_at(0)), pytest.raises(CancelledError):
        asyncio.run(pair.acreate(new(id=base.id, version=5), now()))
    assert live_ids(pair, base) == [base.id]


def test_a_rotation_whose_cancelled_call_goes_on_in_its_thread(pair: RegisteredStorage) -> None:
    """The next request with the old key registers it."""
    base = stored(pair)
    record, _, tombstone, moment = aged_rotation(base)

    def cancel(name: str) -> None:
        if name == "rotate":
            raise CancelledError

    with observed(pair.data, before=cancel), pytest.raises(CancelledError):
        asyncio.run(pair.arotate(record, base, tombstone, moment))
    pair.data.rotate(record, without_entry(base), tombstone, moment)
    assert live_ids(pair.registry, base, record) == [base.id]
    assert live_ids(pair, base, record) == live_ids(pair.registry, base, record) == [record.id]


def test_an_end_beside_a_rotation_that_is_cancelled(pair: RegisteredStorage) -> None:
    """The data has moved, and the entry of the old id has gone: the session has ended."""
    base = stored(pair)
    record, *rest = aged_rotation(base)

    def end(name: str) -> None:
        if name == "rotate":
            pair.registry.delete(base.id)
            raise CancelledError

    with observed(pair.data, after=end), pytest.raises(CancelledError):
        asyncio.run(pair.arotate(record, *rest))
    assert live_ids(pair, base, record) == live_ids(pair.registry, base, record) == []


def test_a_store_that_fails_after_a_cancellation(pair: RegisteredStorage) -> None:
    """The task is cancelled nevertheless."""
    base = stored(pair)

    def fail(name: str) -> None:
        if name == "rotate":
            raise CancelledError
        raise StorageUnavailable(f"{name} is broken")

    with observed(pair.data, before=fail), pytest.raises(CancelledError):
        asyncio.run(pair.arotate(*aged_rotation(base)))


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_end_by_the_old_id_in_the_middle_of_a_rotation(
    pair: RegisteredStorage, store: Any, many: bool
) -> None:
    """The data leads to the new id, and the entry does not yet. The end holds for both at once."""
    base = stored(store)
    record, *rest = aged_rotation(base)
    ended: list[bool] = []

    def end(name: str) -> None:
        if name == "rotate" and not ended:
            assert pair.data.read(record.id) is not None
            ended.append(base.id in pair.end_many([base.id]) if many else pair.delete(base.id))
            assert live_ids(pair, base, record) == []

    with observed(pair.registry, before=end):
        outcome = store.rotate(record, *rest)
    assert ended == [True]
    assert isinstance(outcome, Gone)
    assert live_ids(store, base, record) == live_ids(pair.data, base, record) == []


def rotate_on(pair: RegisteredStorage, base: Record) -> Record:
    """Have another request give the session another id once more; return its record."""
    record, _, tombstone, _ = aged_rotation(base)
    held = pair.read(base.id)
    assert held is not None
    assert isinstance(pair.rotate(record, held, tombstone, now()), Updated)
    return record


@pytest.mark.parametrize("method", ["read", "update", "rotate"])
def test_a_request_that_meets_half_of_a_rotation_registers_it(
    pair: RegisteredStorage, store: Any, method: str
) -> None:
    """Otherwise it could not go on with the session, because what has no entry has ended."""
    base = stored(store)
    record, *rest = aged_rotation(base)
    met = list[Any]()

    def meet(name: str) -> None:
        if name != "rotate" or met:
            return
        met.append(None)
        if method == "read":
            met.append(pair.read(base.id))
        elif method == "update":
            met.append(getattr(pair.update(after(base), base, now()), "current", None))
        else:
            met.append(getattr(pair.rotate(new(), *rest), "current", None))
        assert live_ids(pair.registry, base, record) == [record.id]
        met.append(rotate_on(pair, record))

    with observed(pair.registry, before=meet):
        outcome = store.rotate(record, *rest)
    # Otherwise nothing would tell receivers that the newest id follows the old one.
    assert isinstance(outcome, Updated)
    assert outcome.is_rotated
    _, tombstone, newest = met
    assert tombstone.successor == record.id
    assert live_ids(store, base, record, newest) == [newest.id]
    ended = run(revocation.end(pair, base.id))
    assert ended is not None
    assert ended.id == newest.id


@pytest.mark.parametrize("method", ["read", "update"])
def test_a_request_that_meets_half_of_a_rotation_whose_session_has_ended(
    pair: RegisteredStorage, store: Any, method: str
) -> None:
    base = stored(store)
    record, _, tombstone, moment = aged_rotation(base)
    pair.data.rotate(record, without_entry(base), tombstone, moment)

    def end(name: str) -> None:
        if name == "rotate":
            assert pair.registry.delete(base.id)

    with observed(pair.registry, before=end):
        if method == "read":
            assert store.read(base.id) is None
        else:
            assert isinstance(store.update(after(base), base, now()), Gone)
    assert live_ids(pair.registry, base, record) == []


@pytest.mark.parametrize("is_ahead", [False, True], ids=["autocommit", "transaction"])
def test_a_rotation_is_told_the_id_that_a_transaction_gives_the_session_meanwhile(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch, is_ahead: bool
) -> None:
    """The session goes on under that id, and has not ended."""
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: is_ahead)
    base = stored(store)
    record, *rest = aged_rotation(base)
    other, _, tombstone, _ = aged_rotation(base)

    def commit(name: str) -> None:
        if name == ("update" if is_ahead else "rotate") and pair.data.read(other.id) is None:
            pair.data.create(other, now())
            pair.registry.rotate(other, base, tombstone, now())

    with observed(pair.registry, before=commit):
        outcome = store.rotate(record, *rest)
    assert isinstance(outcome, Conflict)
    assert outcome.current.successor == other.id
    assert store.read(base.id).successor == other.id
    assert live_ids(pair, base, record, other) == live_ids(pair.registry, base, record, other)
    assert live_ids(pair.registry, base, record, other) == [other.id]


def test_half_of_a_rotation_is_read_whose_session_gets_another_id_meanwhile(
    pair: RegisteredStorage, store: Any
) -> None:
    """The registry decides under which of them it goes on."""
    base = stored(store)
    record, _, tombstone, moment = aged_rotation(base)
    pair.data.rotate(record, without_entry(base), tombstone, moment)
    other, _, instead, _ = aged_rotation(base)

    def commit(name: str) -> None:
        if name == "rotate" and pair.data.read(other.id) is None:
            pair.data.create(other, now())
            MemoryStorage.rotate(pair.registry, other, base, instead, now())  # type: ignore[arg-type]

    with observed(pair.registry, before=commit):
        assert store.read(base.id).successor == other.id
    assert live_ids(pair.registry, base, record, other) == [other.id]


def test_half_of_a_rotation_whose_data_was_lost(pair: RegisteredStorage, store: Any) -> None:
    """There is nothing to register. The tombstone leads nowhere."""
    base = stored(store)
    record, _, tombstone, moment = aged_rotation(base)
    pair.data.rotate(record, without_entry(base), tombstone, moment)
    pair.data.delete(record.id)
    assert store.read(base.id).successor == record.id
    assert live_ids(pair.registry, base, record) == [base.id]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_end_in_a_transaction_ends_a_session_that_is_rotated_until_it_commits(
    pair: RegisteredStorage, store: Any, hooks: list[Callable[[], object]], many: bool
) -> None:
    """The last step of the rotation waits for the transaction."""
    base = stored(store)
    assert store.end_many([base.id]) if many else store.delete(base.id)
    record, *rest = aged_rotation(base)

    def commit(name: str) -> None:
        if name == "rotate":
            for hook in hooks:
                hook()

    with (
        mock.patch.object(pair.registry, "in_transaction", return_value=False),
        observed(pair.registry, before=commit),
    ):
        assert isinstance(pair.rotate(record, *rest), Gone)
    assert live_ids(pair.data, base, record) == []


class InTwoSteps(MemoryStorage):
    """A registry in which others can see a rotation before it is done."""

    rotate = Storage.rotate


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("place", [0, 1], ids=["create", "update"])
def test_two_requests_register_one_rotation_in_two_steps(place: int, has_ended: bool) -> None:
    """Whichever step of the first one the second one comes before."""
    pair = RegisteredStorage(MemoryStorage(10), InTwoSteps(10), window=60)
    base, calls = stored(pair), count()
    record, *rest = aged_rotation(base)

    def meet(name: str) -> None:
        if name in {"create", "update"} and next(calls) == place:
            assert pair.read(base.id) is not None
            assert live_ids(pair, base, record) == [record.id]
            if has_ended:
                assert pair.delete(record.id)

    with observed(pair.registry, before=meet):
        outcome = pair.rotate(record, *rest)
    assert isinstance(outcome, Updated)
    assert outcome.is_rotated is has_ended
    left = [] if has_ended else [record.id]
    assert live_ids(pair, base, record) == live_ids(pair.registry, base, record) == left


@pytest.mark.parametrize("place", [0, 1, 2], ids=["refused", "to be withdrawn", "withdrawn"])
def test_a_rotation_in_two_steps_is_done_by_another_request_while_it_is_tried_again(
    place: int,
) -> None:
    """The entry under the new id is withdrawn only if the other request does not need it."""
    pair = RegisteredStorage(MemoryStorage(10), InTwoSteps(10), window=60)
    base, calls = stored(pair), count()
    record, *rest = aged_rotation(base)
    entry = pair.registry.read(base.id)
    assert entry is not None
    pair.registry.update(after(entry, ip="::1"), entry, now())

    def meet(name: str) -> None:
        if name in {"create", "update", "delete"} and next(calls) == place + 1:
            assert pair.read(base.id) is not None
            assert live_ids(pair, base, record) == [record.id]

    with observed(pair.registry, before=meet):
        outcome = pair.rotate(record, *rest)
    assert isinstance(outcome, Updated)
    assert not outcome.is_rotated
    assert live_ids(pair, base, record) == live_ids(pair.registry, base, record) == [record.id]


def test_a_rotation_after_the_entry_has_moved(pair: RegisteredStorage, store: Any) -> None:
    """By another request's address, for one: no entry of the old id may stay live."""
    base = stored(store)
    store.update(after(base, ip="::1"), base, now())
    record, *rest = rotation(base)
    conflict = store.rotate(record, *rest)
    assert isinstance(store.rotate(record, conflict.current, *rest[1:]), Updated)
    assert superseded(pair, base)
    # A node of memcached that comes back with what it had.
    pair.data.delete(base.id)
    pair.data.create(new(id=base.id), now())
    assert store.read(base.id).state is State.SUPERSEDED


def test_a_rotation_that_meets_a_newer_version(pair: RegisteredStorage, store: Any) -> None:
    """Brings the newer one, to merge with, and leaves no entry of what was not stored."""
    base = stored(store)
    store.update(after(base, payload=b"newer"), base, now())
    record, *rest = rotation(base)
    conflict = store.rotate(record, *rest)
    assert isinstance(conflict, Conflict)
    assert pair.registry.read(record.id) is None
    again = store.rotate(record, conflict.current, rest[1], now())
    assert isinstance(again, Updated)


@pytest.mark.parametrize("place", ["data", "registry", None], ids=["lost", "ended", "newer"])
def test_a_rotation_in_a_transaction_that_is_refused(
    pair: RegisteredStorage, store: Any, hooks: Any, place: str | None
) -> None:
    """The transaction may go on and commit, and must not commit an entry of what was not stored."""
    base = stored(store)
    if place:
        getattr(pair, place).delete(base.id)
    else:
        store.update(after(base, payload=b"newer"), base, now())
    record, *rest = rotation(base)
    assert isinstance(store.rotate(record, *rest), Gone if place else Conflict)
    assert pair.registry.read(record.id) is None


def test_a_rotation_in_a_transaction_whose_data_cannot_be_stored(
    pair: RegisteredStorage, store: Any, hooks: Any
) -> None:
    """If the caller catches the error and commits, the session goes on under its old id."""
    base = stored(store)
    record, *rest = rotation(base)
    with observed(pair.data, before=break_at("create")), pytest.raises(StorageUnavailable):
        store.rotate(record, *rest)
    assert store.read(base.id).is_live(now())
    assert pair.registry.read(record.id) is None
    assert hooks == []


def test_a_rotation_in_a_transaction_that_is_tried_again(
    pair: RegisteredStorage, store: Any, hooks: Any
) -> None:
    """The rollback has removed the entry. What it could not remove is in the way of nothing."""
    base = stored(store)
    record, *rest = rotation(base)
    pair.data.create(after(record, payload=b"rolled back"), now())
    assert isinstance(store.rotate(record, *rest), Updated)
    assert store.read(record.id).payload == record.payload


def test_a_rotation_to_a_taken_id(pair: RegisteredStorage, store: Any) -> None:
    """Neither of the two sessions changes."""
    base, other = stored(store), stored(store, user_id="9")
    _, *rest = rotation(base)
    assert isinstance(store.rotate(new(id=other.id), *rest), Taken)
    assert store.read(base.id).state is State.LIVE
    assert store.read(other.id).user_id == "9"


def test_a_create_that_the_registry_refuses(pair: RegisteredStorage, store: Any) -> None:
    """The session with this id has ended, and must not come back by its data."""
    record = new()
    pair.registry.create(make_tombstone(record.id, State.ENDED, now=now(), seconds=60), now())
    assert isinstance(store.create(record, now()), Taken)
    assert pair.data.read(record.id) is None


def test_a_create_whose_entry_another_request_has_taken_over(
    pair: RegisteredStorage, store: Any
) -> None:
    """It has waited for so long that the other one took it for dead. What that one has stored
    stays."""
    record, taken_over = new(), list[Record]()

    def take_over(name: str) -> None:
        if name == "create" and not taken_over:
            taken_over.append(new(id=record.id, user_id="8"))
            assert isinstance(pair.create(taken_over[0], now()), Updated)

    with observed(pair.data, before=take_over):
        assert isinstance(store.create(record, now()), Taken)
    assert store.read(record.id).user_id == "8"


def test_a_create_goes_on_where_another_one_has_stopped(
    pair: RegisteredStorage, store: Any
) -> None:
    """A process that dies between the entry and the data leaves an id that reads as absent. A
    session of a previous backend could never be migrated to it."""
    record = new(user_id="8")
    pair.registry.create(new(id=record.id), now())
    assert store.read(record.id) is None
    assert isinstance(store.create(record, now()), Updated)
    assert store.read(record.id).payload == record.payload
    assert isinstance(store.create(new(id=record.id), now()), Taken)
    assert pair.registry.read(record.id).user_id == "8"


def test_a_create_replaces_data_without_an_entry(pair: RegisteredStorage, store: Any) -> None:
    """It was left by a transaction that was rolled back, or by an end that met an outage."""
    record = new()
    pair.data.create(new(id=record.id, payload=b"left over"), now())
    assert isinstance(store.create(record, now()), Updated)
    assert store.read(record.id).payload == record.payload


def test_a_create_that_is_ended_meanwhile(pair: RegisteredStorage, store: Any) -> None:
    """The session has begun, and has ended. Under another id, it would begin once more."""
    record = new()
    pair.data.create(new(id=record.id, payload=b"left over"), now())

    def end(name: str) -> None:
        if name == "create":
            assert pair.registry.delete(record.id)

    with observed(pair.data, before=end):
        outcome = store.create(record, now())
    assert isinstance(outcome, Updated)
    assert outcome.is_rotated
    assert store.read(record.id) is None


@pytest.mark.parametrize("broken", [["create"], ["create", "update"]], ids=["data", "both"])
def test_a_create_whose_data_cannot_be_stored(
    pair: RegisteredStorage, store: Any, broken: list[str]
) -> None:
    """The lists must not show a session that there is not."""
    record = new()
    with (
        observed(pair.data, before=break_at("create")),
        observed(pair.registry, before=break_at(*broken[1:])),
        pytest.raises(StorageUnavailable, match="create is broken"),
    ):
        store.create(record, now())
    assert (pair.registry.read(record.id) is None) is (broken == ["create"])


@pytest.mark.parametrize("is_saved", [False, True], ids=["", "saved since"])
def test_a_create_whose_answer_was_lost(
    pair: RegisteredStorage, store: Any, is_saved: bool
) -> None:
    """Another request that migrates the same session may have read it, and may save it."""
    record = new(version=1 << 32)

    def lose(name: str) -> None:
        if name == "create":
            if is_saved:
                held = pair.read(record.id)
                assert held is not None
                later = after(held, version=2 << 32, payload=b"later")
                assert isinstance(pair.update(later, held, now()), Updated)
            raise StorageUnavailable("the answer was lost")

    with observed(pair.data, after=lose):
        assert isinstance(store.create(record, now()), Updated)
    assert store.read(record.id).payload == (b"later" if is_saved else record.payload)
    assert live_ids(pair.registry, record) == [record.id]


@pytest.mark.parametrize(("origin", "saves"), [("", 1), (MINE, 2)], ids=["", "saved since"])
def test_a_create_that_fails_over_data_without_an_entry(
    pair: RegisteredStorage, store: Any, origin: str, saves: int
) -> None:
    """Data that was left over is not that of the new session."""
    record = new(version=1 << 32, origin=origin)
    left = new(id=record.id, version=(saves << 32) + 1, payload=b"left over", origin=THEIRS)
    pair.data.create(left, now())
    with (
        observed(pair.data, after=break_at("create")),
        pytest.raises(StorageUnavailable, match="create is broken"),
    ):
        store.create(record, now())
    assert store.read(record.id) is None


@pytest.mark.parametrize("was_sent", [False, True])
@pytest.mark.parametrize("origin", ["", MINE], ids=["new", "migrated"])
def test_a_create_of_which_nobody_knows_whether_it_is_stored(
    pair: RegisteredStorage, store: Any, origin: str, was_sent: bool
) -> None:
    """Another request that migrates the same session may have found and saved it. The key of a new
    session was given to nobody."""
    record = new(origin=origin)

    def fail(name: str) -> None:
        error = StorageUnavailable("no answer")
        error.was_sent = was_sent
        raise error

    when = {"after" if was_sent else "before": fail}
    with observed(pair.data, **when), pytest.raises(StorageUnavailable):
        store.create(record, now())
    is_kept = bool(origin) and was_sent
    assert live_ids(pair.registry, record) == live_ids(store, record) == [record.id] * is_kept


@pytest.mark.parametrize("origin", ["", MINE], ids=["new", "migrated"])
def test_a_create_that_is_cancelled_before_the_store_fails(
    pair: RegisteredStorage, origin: str
) -> None:
    """The same: the call may have been made."""
    record = new(origin=origin)

    def fail(name: str) -> None:
        raise CancelledError if name == "create" else StorageUnavailable("no answer")

    with observed(pair.data, after=fail), pytest.raises(CancelledError):
        asyncio.run(pair.acreate(record, now()))
    assert live_ids(pair, record) == [record.id] * bool(origin)


def test_data_of_another_lineage_does_not_count(pair: RegisteredStorage, store: Any) -> None:
    """A migration was rolled back, and another one has created its entry and no data yet."""
    left = new(origin=THEIRS, payload=b"rolled back")
    pair.data.create(left, now())
    pair.registry.create(new(id=left.id, origin=MINE), now())
    assert store.read(left.id) is None
    base = new(id=left.id, origin=MINE, version=5)
    assert isinstance(store.update(after(base), base, now()), Gone)
    assert pair.data.read(left.id) == left


@pytest.mark.parametrize("call", ["create", "read"])
def test_a_create_goes_on_over_data_of_another_lineage(
    pair: RegisteredStorage, store: Any, call: str
) -> None:
    """The request that has created the entry may come later, and does not replace the data."""
    record = new(origin=MINE)
    pair.data.create(new(id=record.id, origin=THEIRS, payload=b"rolled back"), now())
    taken_over = list[Record]()

    def take_over(name: str) -> None:
        if name == call and not taken_over:
            taken_over.append(new(id=record.id, payload=b"later", origin="c" * 40))
            assert isinstance(pair.create(taken_over[0], now()), Updated)

    with observed(pair.data, before=take_over):
        assert isinstance(store.create(record, now()), Taken)
    assert store.read(record.id).payload == b"later"
    assert store.read(record.id).origin == pair.data.read(record.id).origin == MINE


def test_damaged_data_without_an_entry_is_replaced(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create makes room as an end does."""
    record = new()
    pair.data.create(new(id=record.id), now())

    def damaged(*args: Any) -> None:
        raise UnreadablePayload("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(pair.data, "read", damaged)
        assert isinstance(store.create(record, now()), Updated)
    assert store.read(record.id).payload == record.payload


def test_a_tombstone_in_a_transaction_of_the_registry_reaches_the_data_with_the_commit(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback must not leave it there, and the data may still have what it replaces."""
    left = make_tombstone(session_id(draw_key()), State.ENDED, now=now(), seconds=60)
    pair.data.create(new(id=left.id), now())
    committed: list[Callable[[], object]] = []
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: True)
    monkeypatch.setattr(pair.registry, "after_commit", committed.append)
    outcome = store.create(left, now())
    assert isinstance(outcome, Updated)
    assert outcome.record.id == left.id
    for state in (State.LIVE, State.ENDED):
        assert pair.data.read(left.id).state is state
        for action in committed:
            action()


@pytest.mark.parametrize("is_over", [False, True], ids=["claimed", "ended"])
def test_of_two_that_go_on_where_another_one_has_stopped_one_creates(
    pair: RegisteredStorage, store: Any, is_over: bool
) -> None:
    """The other one has changed the entry, and is about to store its data."""
    record = new(user_id="8")
    entry = new(id=record.id, payload=b"")
    pair.registry.create(entry, now())

    def overtake(name: str) -> None:
        if name == "update":
            if is_over:
                pair.registry.delete(record.id)
            else:
                MemoryStorage.update(pair.registry, after(entry, user_id="9"), entry, now())

    with observed(pair.registry, before=overtake):
        assert isinstance(store.create(record, now()), Taken)
    assert pair.data.read(record.id) is None
    left = pair.registry.read(record.id)
    assert left is None if is_over else left.user_id == "9"


def test_a_create_in_a_transaction_goes_on_where_another_one_has_stopped(
    pair: RegisteredStorage, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback, the data belongs to the entry that was there before: to the same session.
    Otherwise nobody could use the session in a transaction until the entry expires."""
    record, entry = new(origin=MINE), new(origin=THEIRS, payload=b"")
    record = msgspec.structs.replace(record, id=entry.id)
    pair.registry.create(entry, now())
    monkeypatch.setattr(pair.registry, "in_transaction", lambda: True)
    assert isinstance(store.create(record, now()), Updated)
    assert store.read(record.id).payload == record.payload
    claimed = pair.registry.read(record.id)
    assert claimed.version != entry.version
    rolled_back = pair.registry.update(entry, claimed, now())
    assert isinstance(rolled_back, Updated)
    assert store.read(record.id).payload == record.payload


def test_a_create_that_fails_while_another_one_takes_over(
    pair: RegisteredStorage, store: Any
) -> None:
    """The other one has stored the session, and its transaction may commit at any moment."""
    record, calls, taken_over = new(origin=MINE), count(), list[Record]()

    def fail(name: str) -> None:
        if name == "create" and not next(calls):
            error = StorageUnavailable("the store is full")
            error.was_sent = False
            raise error

    def take_over(name: str) -> None:
        if name in {"delete", "update"} and not taken_over:
            taken_over.append(new(id=record.id, origin=THEIRS, payload=b"theirs"))
            assert isinstance(pair.create(taken_over[0], now()), Updated)

    with (
        observed(pair.data, before=fail),
        observed(pair.registry, before=take_over),
        pytest.raises(StorageUnavailable, match="full"),
    ):
        store.create(record, now())
    assert taken_over
    assert store.read(record.id).payload == b"theirs"


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_tombstone_whose_data_cannot_be_stored_stays(
    pair: RegisteredStorage, awaited: bool
) -> None:
    """What it stands for must not be migrated once more."""
    left = make_tombstone(session_id(draw_key()), State.ENDED, now=now(), seconds=60)
    with observed(pair.data, before=break_at("create")), pytest.raises(StorageUnavailable):
        Twin(pair, awaited).create(left, now())
    assert pair.registry.read(left.id).state is State.ENDED


@pytest.mark.parametrize("is_tombstone", [False, True], ids=["expired", "tombstone"])
def test_an_entry_that_is_not_taken_over(
    pair: RegisteredStorage, store: Any, is_tombstone: bool
) -> None:
    """A session that has expired does not come back, and no tombstone takes its place."""
    record, moment = new(user_id="8"), now()
    pair.registry.create(new(id=record.id, expires=moment + 1), moment)
    left = make_tombstone(record.id, State.ENDED, now=moment, seconds=60)
    given, passed = (left, 0) if is_tombstone else (record, 1)
    assert isinstance(store.create(given, moment + passed), Taken)
    assert pair.registry.read(record.id).user_id == "7"
    assert pair.data.read(record.id) is None


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_another_key_for_a_session_that_its_key_holds(awaited: bool) -> None:
    """For a request that migrates a session which another one has just registered."""
    pair = RegisteredStorage(CookieStorage(), MemoryStorage(100), window=60)
    store, data = Twin(pair, awaited), codec().serialize({"x": 1})
    record = new(id="a" * 40, payload=pair.codec.encrypt("a" * 40, data))
    issued = store.issue(record, now())
    assert pair.identify(issued.key) == record.id
    held = pair.data.read(pair.locate(issued.key))
    assert held is not None
    assert held.user_id == record.user_id
    assert codec().deserialize(newest_data(held, pair.codec, codec())) == {"x": 1}
    assert pair.registry.read(record.id) is None
    assert isinstance(store.create(record, now()), Updated)
    again = store.issue(msgspec.structs.replace(record, version=record.version + 7), now())
    known = store.read(pair.locate(again.key))
    assert known.version == record.version
    assert isinstance(store.update(after(known), known, now()), Updated)


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_the_tombstone_of_a_session_in_a_key_is_in_the_registry(awaited: bool) -> None:
    """Only there, because its key is in the browser. Who stores it learns whether it is stored."""
    pair = RegisteredStorage(CookieStorage(), MemoryStorage(100), window=60)
    store = Twin(pair, awaited)
    for seconds in 60, 90:
        left = make_tombstone("a" * 40, State.ENDED, now=now(), seconds=seconds)
        outcome = store.create(left, now())
        assert isinstance(outcome, Updated if seconds == 60 else Taken)
        if isinstance(outcome, Updated):
            first = outcome.record
            assert first.id == left.id
    assert pair.registry.read(first.id) == first
    outcome = store.update(left, first, now())
    assert isinstance(outcome, Updated)
    assert pair.registry.read(left.id) == left


# The engine ---------------------------------------------------------------------------------------


@pytest.fixture
def key(engine: Any) -> Iterator[str]:
    session = engine.SessionStore()
    session.update({"_auth_user_id": "7", "color": "blue"})
    session.save()
    return session.session_key  # type: ignore[no-any-return]


@pytest.mark.engines("cache:memcached+sqlite")
def test_sessions_in_memcached_can_be_found_by_user(engine: Any, key: str) -> None:
    """Memcached by itself cannot list sessions at all."""
    (entry,) = StoredSession.objects.using(engine.database).filter(user_id="7")
    assert entry.id.hex() == session_id(key)


@pytest.mark.engines("cache:memcached+sqlite")
def test_a_save_after_its_end_elsewhere_is_refused_or_unseen(engine: Any, key: str) -> None:
    """Whoever ends a session deletes both; who deletes only the row ends it too."""
    late = engine.SessionStore(key)
    late["x"] = 1
    StoredSession.objects.using(engine.database).all().delete()
    with at(now() + HOUR), pytest.raises(SessionEnded):
        late.save()
    assert dict(engine.SessionStore(key).items()) == {}


@pytest.fixture
def stopped(engine: Any, key: str, in_requests: None) -> Iterator[str]:
    """Return the key of a session whose rotation was stopped, as by a signal, after the data was
    moved and before the entry was."""
    registry = type(engine.storage.registry)
    with limits(ROTATE_AFTER=60), at(now() + HOUR):
        with mock.patch.object(registry, "rotate", side_effect=SystemExit(1)):
            session = engine.SessionStore(key)
            session.load()
            with pytest.raises(SystemExit):
                session.save()
        yield key


def ended_by(end: Callable[[], object]) -> list[str]:
    """Return the ids of the sessions whose end was told during a call."""
    told = list[str]()

    def note(session_id: str, **facts: Any) -> None:
        told.append(session_id)

    signals.session_ended.connect(note)
    try:
        end()
    finally:
        signals.session_ended.disconnect(note)
    return told


@pytest.mark.engines("cache:memcached+sqlite")
@pytest.mark.parametrize("method", ["end", "end_many", "end_all"])
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_an_end_after_a_rotation_that_was_stopped(
    engine: Any, stopped: str, awaited: bool, method: str
) -> None:
    """It is listed under the id that its browser knows, once."""
    inventory = Twin(Inventory(), awaited)
    (listed,) = inventory.list().sessions
    assert listed.id == session_id(stopped)
    argument = {"end": listed.id, "end_many": [listed.id], "end_all": "7"}[method]
    assert ended_by(partial(getattr(inventory, method), argument)) == [listed.id]
    assert engine.SessionStore(stopped).load() == {}
    assert list(inventory.list().sessions) == []


@pytest.mark.engines("cache:memcached+sqlite")
def test_the_end_of_all_tells_the_id_that_a_session_gets_meanwhile(engine: Any, key: str) -> None:
    session = engine.SessionStore(key)
    session.load()

    def rotate(name: str) -> None:
        if name == "end_many" and not session.drawn:
            session.cycle_key()

    with observed(engine.storage.registry, before=rotate):
        assert ended_by(lambda: Inventory().end_all("7")) == [session.session_id]
    assert engine.SessionStore(session.session_key).load() == {}


@pytest.mark.engines("cache:memcached+sqlite")
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_session_whose_rotation_was_stopped_goes_on_under_its_new_key(
    engine: Any, stopped: str, awaited: bool
) -> None:
    session = Twin(engine.SessionStore(stopped), awaited)
    assert session.load()["color"] == "blue"
    (listed,) = Inventory().list().sessions
    assert listed.id == session.session_id != session_id(stopped)


@pytest.mark.engines("cache:memcached+sqlite")
def test_a_login_while_the_registry_is_full(engine: Any) -> None:
    """The visitor keeps the basket, and can sign in as soon as there is room."""
    visitor = engine.SessionStore()
    visitor["basket"] = 1
    visitor.save()
    login = engine.SessionStore(visitor.session_key)
    login.cycle_key()
    login["_auth_user_id"] = "7"
    refusing = mock.patch.object(
        type(engine.storage.registry), "rotate", side_effect=StorageFull("no space")
    )
    with refusing, pytest.raises(StorageFull):
        login.save()
    assert dict(engine.SessionStore(visitor.session_key).items()) == {"basket": 1}
    login.save()
    assert engine.SessionStore(login.session_key)["_auth_user_id"] == "7"
    assert engine.SessionStore(login.session_key)["basket"] == 1
    assert engine.SessionStore(visitor.session_key).load() == {}
    assert [each.user_id for each in Inventory().list().sessions] == ["7"]


# What a pair is, by what its two storages are -----------------------------------------------------

LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "registry"}


@pytest.mark.engines("cookie:sqlite", "cookie:django-redis", "cookie:redis-cache+postgresql")
def test_cookies_in_a_registry_that_all_processes_share_are_shared(engine: Any) -> None:
    assert engine.storage.shared


def test_cookies_in_the_registry_of_one_process_are_not_shared() -> None:
    """Another worker finds no entry there, and takes the session for ended. The checks warn of it,
    and so they must be told."""
    with override_settings(
        CACHES={"default": LOCMEM},
        SESSION_CACHE_ALIAS="default",
        SESSIONSTORES={"REGISTRY": "cache"},
    ):
        storage = cookie.SessionStore.make_storage()
    assert isinstance(storage, RegisteredStorage)
    assert CookieStorage().shared
    assert not storage.registry.shared
    assert not storage.shared
    assert not storage.durable


def test_a_pair_is_described_by_both(pair: RegisteredStorage) -> None:
    data, registry = pair.data.describe(), pair.registry.describe()
    assert pair.describe() == f"{data}, registered in {registry}"


@pytest.mark.parametrize("name", ["shared", "durable", "self_expiring", "native_async"])
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("registry", [True, False])
def test_a_pair_is_what_both_of_its_storages_are(name: str, data: bool, registry: bool) -> None:
    storages = MemoryStorage(10), MemoryStorage(10)
    for storage, value in zip(storages, (data, registry), strict=True):
        setattr(storage, name, value)
    assert getattr(RegisteredStorage(*storages, window=60), name) is (data and registry)


@pytest.mark.parametrize("data", ["", "allkeys-lru"])
@pytest.mark.parametrize("registry", ["", "volatile-lru"])
def test_a_pair_drops_sessions_as_either_of_its_storages_does(
    pair: RegisteredStorage, monkeypatch: pytest.MonkeyPatch, data: str, registry: str
) -> None:
    """The doctor warns of it. A session needs both its data and its entry."""
    monkeypatch.setattr(pair.data, "eviction_policy", lambda: data)
    monkeypatch.setattr(pair.registry, "eviction_policy", lambda: registry)
    assert pair.eviction_policy() == (data or registry)


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("registry", [True, False])
def test_a_pair_is_in_the_transactions_of_both_storages(
    pair: RegisteredStorage,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    data: bool,
    registry: bool,
) -> None:
    """Callbacks run after the commit of the registry, which decides which sessions are live."""
    waiting: list[tuple[str, object]] = []
    for name, value in ("data", data), ("registry", registry):
        storage, note = getattr(pair, name), partial(_note, waiting, name)
        monkeypatch.setattr(storage, "in_transaction", lambda value=value: value)
        monkeypatch.setattr(storage, "after_commit", note)
        monkeypatch.setattr(storage, "after_rollback", note)
    assert store.in_transaction() is (data or registry)
    if data or registry:
        action, name = list[Any], "registry" if registry else "data"
        assert store.after_commit(action) is action
        pair.after_rollback(action)
        assert waiting == [(name, action)] * 2


def _note(waiting: list[tuple[str, object]], name: str, action: object) -> object:
    """Note that an action waits, and return what `Storage.after_commit` returned for it."""
    waiting.append((name, action))
    return action


@pytest.mark.parametrize("is_durable", [False, True])
@pytest.mark.parametrize("holds_in_key", [False, True])
def test_a_list_has_lost_sessions_if_a_cache_has_the_data(
    is_durable: bool, holds_in_key: bool
) -> None:
    """Then the session limit has to look whether they are there."""
    traits = {"durable": is_durable, "holds_in_key": holds_in_key}
    data = type("Data", (MemoryStorage,), traits)(10)
    pair = RegisteredStorage(data, MemoryStorage(10), window=60)
    assert pair.lists_lost is not (is_durable or holds_in_key)
    assert pair.keeps_changes is pair.holds_in_key is holds_in_key


@pytest.mark.parametrize("is_pending", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_key_is_outdated_that_has_to_be_brought_forward(is_pending: bool, is_old: bool) -> None:
    """By changes that others have saved, or because a previous SECRET_KEY has encrypted it."""
    data, asked = MemoryStorage(10), list[Record]()

    def is_outdated(record: Record) -> bool:
        asked.append(record)
        return is_old

    pair = RegisteredStorage(data, MemoryStorage(10), window=60)
    record = stored(pair)
    if is_pending:
        record = msgspec.structs.replace(record, pending=(Change(1, b"change"),))
    with mock.patch.object(data, "is_outdated", is_outdated):
        assert pair.is_outdated(record) is (is_pending or is_old)
    assert [each.handle for each in asked] == ([] if is_pending else [None])

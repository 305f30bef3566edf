"""A registry beside memcached: what has no entry has ended, and nothing is lost on the way."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from django_sessionstores.exceptions import SessionEnded, StorageUnavailable
from django_sessionstores.models import StoredSession
from django_sessionstores.records import Record, State, draw_key, session_id, tombstone
from django_sessionstores.session import now
from django_sessionstores.storages.base import Conflict, Gone, Taken, Updated
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.registered import Registered
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed

Make = Callable[..., Record]


@pytest.fixture
def pair() -> Registered:
    """Memory for both: which store it is makes no difference to what is done in which order."""
    return Registered(MemoryStorage(100), MemoryStorage(100), window=60)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def store(request: pytest.FixtureRequest, pair: Registered) -> Any:
    return Twin(pair, request.param)


def new(**fields: Any) -> Record:
    moment = now()
    values: dict[str, Any] = {
        "id": session_id(draw_key()),
        "payload": b"sealed",
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
    return msgspec.structs.replace(base, version=base.version + 1, handle=None, **changes)


def break_at(*names: str) -> Callable[[str], None]:
    def hook(name: str) -> None:
        if name in names:
            raise StorageUnavailable(f"{name} is broken")

    return hook


# Entries ------------------------------------------------------------------------------------------


def test_an_entry_has_no_payload(pair: Registered, store: Any) -> None:
    """It is small, and tells whoever reads the registry no more than who is logged in."""
    record = stored(store)
    entry = pair.registry.read(record.id)
    assert entry is not None
    assert entry.payload == b""
    assert (entry.user_id, entry.expires) == (record.user_id, record.expires)


def test_a_record_without_an_entry_has_ended(pair: Registered, store: Any) -> None:
    """Ending a session is deleting its entry, whatever the store of the data still has."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert pair.data.read(record.id) is not None
    assert store.read(record.id) is None


def test_deleting_ends_a_session_even_if_its_data_is_out_of_reach(
    pair: Registered, store: Any
) -> None:
    """A logout while a node of memcached is away must hold when it is back."""
    record = stored(store)
    with observed(pair.data, before=break_at("delete")), pytest.raises(StorageUnavailable):
        store.delete(record.id)
    assert store.read(record.id) is None


def test_a_registry_that_does_not_answer_is_an_outage(pair: Registered, store: Any) -> None:
    """Neither a logout nor the acceptance of what it might have ended."""
    record = stored(store)
    with observed(pair.registry, before=break_at("read")), pytest.raises(StorageUnavailable):
        store.read(record.id)
    assert store.read(record.id) is not None


def test_an_unknown_id_does_not_ask_the_registry(pair: Registered, store: Any) -> None:
    """Scanners cost one trip, not two."""
    with observed(pair.registry) as calls:
        assert store.read(session_id(draw_key())) is None
    assert calls == []


# Saves --------------------------------------------------------------------------------------------


def test_a_save_does_not_write_the_registry(pair: Registered, store: Any) -> None:
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
def test_the_entry_follows(pair: Registered, store: Any, change: dict[str, Any]) -> None:
    """Or lists would show who was logged in at first."""
    record = stored(store)
    (name,) = change
    for number in range(2):
        outcome = store.update(after(record, **change), record, now())
        assert isinstance(outcome, Updated), number
        record = outcome.record
    entry = pair.registry.read(record.id)
    assert entry is not None
    assert getattr(entry, name) == change[name]


def test_two_saves_that_move_the_entry(pair: Registered, store: Any) -> None:
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


def test_a_save_of_an_ended_session_that_moves_its_entry(pair: Registered, store: Any) -> None:
    """It must not be answered as saved."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert isinstance(store.update(after(record, ip="::1"), record, now()), Gone)


def test_a_touch_moves_both(pair: Registered, store: Any) -> None:
    """Or the entry would expire while the session is in use."""
    record = stored(store)
    assert store.touch(record, record.expires + DAY, now(), now())
    for storage in (pair.data, pair.registry):
        held = storage.read(record.id)
        assert held is not None
        assert held.expires == record.expires + DAY


def test_a_touch_of_an_ended_session(pair: Registered, store: Any) -> None:
    """Says that it did nothing."""
    record = stored(store)
    pair.registry.delete(record.id)
    assert not store.touch(record, record.expires + DAY, now(), now())


def superseded(pair: Registered, base: Record) -> bool:
    """Whether the registry says of a session that it got another id."""
    entry = pair.registry.read(base.id)
    return entry is not None and entry.state is State.SUPERSEDED


# Rotation -----------------------------------------------------------------------------------------


def rotation(base: Record) -> tuple[Record, Record, Record, int]:
    grave = tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)
    return new(user_id="8"), base, grave, now()


def test_rotation_moves_the_entry(pair: Registered, store: Any) -> None:
    """A list shows the session once, under its new id."""
    base = stored(store)
    record, *rest = rotation(base)
    assert isinstance(store.rotate(record, *rest), Updated)
    assert store.read(record.id).user_id == "8"
    assert store.read(base.id).state is State.SUPERSEDED
    assert superseded(pair, base)


def test_a_rotated_record_can_be_updated(pair: Registered, store: Any) -> None:
    """The same request may save again."""
    record, *rest = rotation(stored(store))
    rotated = store.rotate(record, *rest).record
    assert isinstance(store.update(after(rotated, ip="::1"), rotated, now()), Updated)


@pytest.mark.parametrize("broken", ["data.rotate", "registry.create"])
def test_a_rotation_that_fails_leaves_the_session(
    pair: Registered, store: Any, broken: str
) -> None:
    """The browser still has the old key, and nobody has the new one."""
    base = stored(store)
    record, *rest = rotation(base)
    part, name = broken.split(".")
    with (
        observed(getattr(pair, part), before=break_at(name)),
        pytest.raises(StorageUnavailable),
    ):
        store.rotate(record, *rest)
    assert store.read(base.id).state is State.LIVE
    assert store.read(record.id) is None
    assert pair.registry.read(record.id) is None


def test_a_rotation_after_the_entry_has_moved(pair: Registered, store: Any) -> None:
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


def test_a_rotation_whose_last_step_meets_an_outage(pair: Registered, store: Any) -> None:
    """It is done: answered as an outage, the browser would keep a key that is over."""
    base = stored(store)
    record, *rest = rotation(base)
    with observed(pair.registry, before=break_at("update")):
        assert isinstance(store.rotate(record, *rest), Updated)
    assert store.read(record.id).user_id == "8"


def test_a_rotation_that_meets_a_newer_version(pair: Registered, store: Any) -> None:
    """Brings the newer one, to merge with, and leaves no entry of what was not stored."""
    base = stored(store)
    store.update(after(base, payload=b"newer"), base, now())
    record, *rest = rotation(base)
    conflict = store.rotate(record, *rest)
    assert isinstance(conflict, Conflict)
    assert pair.registry.read(record.id) is None
    again = store.rotate(record, conflict.current, rest[1], now())
    assert isinstance(again, Updated)


def test_a_rotation_to_a_taken_id(pair: Registered, store: Any) -> None:
    """Neither session is touched."""
    base, other = stored(store), stored(store, user_id="9")
    _, *rest = rotation(base)
    assert isinstance(store.rotate(new(id=other.id), *rest), Taken)
    assert store.read(base.id).state is State.LIVE
    assert store.read(other.id).user_id == "9"


def test_a_create_that_the_registry_refuses(pair: Registered, store: Any) -> None:
    """The id is taken: by a session whose data was evicted, for example."""
    record = new()
    pair.registry.create(new(id=record.id), now())
    assert isinstance(store.create(record, now()), Taken)
    assert pair.data.read(record.id) is None


# The engine ---------------------------------------------------------------------------------------


@pytest.fixture
def key(engine: Any) -> Iterator[str]:
    session = engine.SessionStore()
    session.update({"_auth_user_id": "7", "color": "blue"})
    session.save()
    return session.session_key  # type: ignore[no-any-return]


@pytest.mark.engines("cache:memcached+sqlite")
def test_sessions_in_memcached_can_be_found_by_user(engine: Any, key: str) -> None:
    """What memcached itself cannot do at all."""
    (entry,) = StoredSession.objects.using(engine.database).filter(user_id="7")
    assert entry.id == session_id(key)


@pytest.mark.engines("cache:memcached+sqlite")
def test_a_save_after_its_end_elsewhere_is_refused_or_unseen(engine: Any, key: str) -> None:
    """Whoever ends a session deletes both; who deletes only the row ends it too."""
    late = engine.SessionStore(key)
    late["x"] = 1
    StoredSession.objects.using(engine.database).all().delete()
    with at(now() + HOUR), pytest.raises(SessionEnded):
        late.save()
    assert dict(engine.SessionStore(key).items()) == {}

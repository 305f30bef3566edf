"""What a session object knows of its session: the key, the record, and until when it lives."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import msgspec
import pytest
from django.contrib.auth import HASH_SESSION_KEY
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.conf import codec
from django_sessionstores.core import flow
from django_sessionstores.core.records import (
    SecretDict,
    State,
    make_tombstone,
    session_id,
)
from django_sessionstores.exceptions import SessionEnded, StorageUnavailable
from django_sessionstores.sessions import (
    conflicts,
    knowledge,
    purge_expired,
    rotation,
    verification,
)
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages import revocation
from django_sessionstores.testing import HOUR, at, now, observed
from tests.sessions.test_saving import fail, stored, stored_key, superseded

pytestmark = [pytest.mark.engines("memory"), pytest.mark.usefixtures("in_requests")]


# Keys that the object has drawn -----------------------------------------------------------------


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize("has_policy", [False, True])
def test_create_keeps_a_key_that_was_drawn_if_its_session_lives(
    engine: Any, open_session: Any, has_policy: bool, is_ended: bool
) -> None:
    """Code that calls it after ``cycle_key()`` wants a new key, and has got one."""
    session = open_session(stored(open_session))
    session.target.policy = RequestPolicy() if has_policy else None
    session.cycle_key()
    session.save()
    key = session.session_key
    if is_ended:
        open_session(key).delete()
    with observed(engine.storage) as calls:
        session.create()
    assert (session.session_key == key) is not is_ended
    assert ("create" in calls) is is_ended
    assert session.target.modified


def test_a_login_has_what_others_have_saved(open_session: Any) -> None:
    """The data at hand has it, too, because the view may read it after the login."""
    key = stored(open_session)
    session = open_session(key)
    session.get("a")
    other = open_session(key)
    other.set("theirs", 2)
    other.save()
    session.cycle_key()
    session.set("_auth_user_id", "7")
    session.save()
    assert dict(session.items()) == {"a": 1, "theirs": 2, "_auth_user_id": "7"}


@pytest.mark.parametrize("then", ["flush", "delete"])
def test_an_end_is_told_before_the_next_one(open_session: Any, then: str) -> None:
    """A flush waits for a login that may follow. After another end, none does."""
    session, told = open_session(stored(open_session)), list[Any]()
    session.target.policy = RequestPolicy()
    signals.observers.append(observe := lambda signal, sender, facts: told.append(facts["reason"]))
    try:
        session.flush()
        assert told == []
        if then == "delete":
            session.cycle_key()
        getattr(session, then)()
        assert told == ["logout"]
        session.settle()
        assert told == ["logout"]
    finally:
        signals.observers.remove(observe)


@pytest.mark.parametrize(
    "data", [{}, {"_auth_user_id": "7"}, {HASH_SESSION_KEY: "x", "_auth_user_id": None}]
)
def test_without_a_login_nobody_is_asked_whether_it_is_outdated(data: dict[str, Any]) -> None:
    asking = verification.login_is_outdated(data)
    with pytest.raises(StopIteration) as stopped:
        next(asking)
    assert stopped.value.value is False


def test_a_key_is_drawn_later_only(engine: Any, open_session: Any) -> None:
    """`rotate_later` leaves it to the next save, also of a session that has a user."""
    session = open_session(stored(open_session, _auth_user_id="7"))
    session.get("a")
    with observed(engine.storage) as calls:
        session.rotate_later()
        assert calls == []
        session.save()
    assert calls == ["rotate"]


def test_a_key_that_a_store_may_have_is_not_replaced(engine: Any, open_session: Any) -> None:
    """Its answer was lost. The session would be there twice."""
    session = open_session(stored(open_session))
    session.cycle_key()
    first = session.session_key
    session.cycle_key()
    second = session.session_key
    assert first != second
    with observed(engine.storage, before=fail), pytest.raises(StorageUnavailable):
        session.save()
    session.cycle_key()
    assert session.session_key == second
    session.save()
    assert open_session(second).get("a") == 1


def test_a_key_that_cannot_be_derived_leads_nowhere(engine: Any) -> None:
    """Such a tombstone is of a site with other keys, or stands for no rotation."""
    key = stored_key(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session[HASH_SESSION_KEY] = "new hash"
    other = engine.SessionStore(key)
    other.cycle_key()
    other.save()
    tombstone = engine.storage.read(session_id(key))
    engine.storage._put(msgspec.structs.replace(tombstone, version=tombstone.version + 1), now())
    with pytest.raises(SessionEnded):
        session.save()


@pytest.mark.parametrize("expiry", [None, 0, 60])
@pytest.mark.parametrize("at_close", [False, True])
def test_when_a_browser_drops_the_cookie(
    open_session: Any, at_close: bool, expiry: int | None
) -> None:
    session = open_session(stored(open_session))
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=at_close):
        session.set_expiry(expiry)
        session.save()
        drops = expiry == 0 or (expiry is None and at_close)
        deadlines = session.deadlines()
        assert (deadlines.cookie is None) is drops
        assert drops or deadlines.cookie == deadlines.idle


@pytest.mark.parametrize(
    ("before", "after", "is_due"),
    [(None, None, False), (600, 600, False), (None, 600, True), (600, None, True), (600, 0, True)],
)
def test_a_save_makes_a_cookie_due_if_its_lifetime_changes(
    open_session: Any, before: int | None, after: int | None, is_due: bool
) -> None:
    moment = now()
    with at(moment):
        session = open_session()
        session.set_expiry(before)
        session.set("a", 1)
        session.save()
        later = open_session(session.session_key)
        assert later.get("a") == 1
        if after != before:
            later.set_expiry(after)
        later.set("a", 2)
        later.save()
        assert later.target.cookie_is_due is is_due


def test_the_time_of_a_rotation_is_part_of_the_data(open_session: Any) -> None:
    """Otherwise the next save of the same object would take it for a deletion."""
    session = open_session(stored(open_session, _auth_user_id="7"))
    with override_settings(SESSIONSTORES={"ROTATE_AFTER": 60}):
        session.cycle_key()
        session.save()
        assert "_session_rotated" in session.target
        session.set("b", 2)
        session.save()
        assert "_session_rotated" in open_session(session.session_key).load()


class _ReadMeanwhile(dict[str, Any]):
    """Data that another thread reads at each step of a change."""

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        assert self["stays"] == 1

    def clear(self) -> None:
        super().clear()
        assert self["stays"] == 1

    def update(self, *args: Any, **kwargs: Any) -> None:
        assert self["stays"] == 1
        super().update(*args, **kwargs)


def test_what_a_merge_leaves_as_it_is_can_be_read_meanwhile() -> None:
    """Threads of a view may share its session."""
    held = ["held by the view"]
    data = _ReadMeanwhile(gone=0, stays=1, changed=2, held=held)
    knowledge.replace_data(data, {"held": list(held), "new": 4, "changed": 3, "stays": 1})
    assert data == {"stays": 1, "changed": 3, "held": held, "new": 4}
    assert data["held"] is held


@pytest.mark.parametrize("kind", ["superseded", "ended", "unreadable"])
def test_a_new_key_for_a_key_that_is_not_accepted(
    engine: Any, open_session: Any, kind: str
) -> None:
    """It is there for this object at once, as with Django's backends."""
    key = superseded(open_session) if kind == "superseded" else stored(open_session)
    record = engine.storage.read(session_id(key))
    if kind == "ended":
        engine.storage._put(msgspec.structs.replace(record, state=State.ENDED), now())
    if kind == "unreadable":
        engine.storage._put(msgspec.structs.replace(record, payload=b"damaged"), now())
    session = open_session(key)
    session.cycle_key()
    assert session.session_key != key
    assert session.exists(session.session_key)
    session.set("_auth_user_id", "7")
    new = session.session_key
    session.save()
    assert session.session_key == new
    session.create()
    assert session.session_key == new


# What is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "is_there"), [(-1, True), (0, False)])
def test_a_session_ends_exactly_when_it_expires(
    engine: Any, open_session: Any, late: int, is_there: bool
) -> None:
    key = stored(open_session)
    expires = engine.storage.read(session_id(key)).expires
    with at(expires + late):
        assert open_session(key).exists(key) is is_there
        assert open_session(key).get("a") == (1 if is_there else None)


@pytest.mark.parametrize(("late", "is_in_grace"), [(-1, True), (0, False)])
def test_a_grace_period_ends_exactly(late: int, is_in_grace: bool) -> None:
    moment = now()
    tombstone = make_tombstone("a" * 40, State.ROTATED, now=moment, seconds=600)
    other = make_tombstone("a" * 40, State.SUPERSEDED, now=moment, seconds=600)
    with override_settings(SESSIONSTORES={"ROTATION_GRACE": 60}), at(moment + 60_000 + late):
        assert revocation.is_in_grace(tombstone) is is_in_grace
        assert not revocation.is_in_grace(other)
        assert not revocation.is_in_grace(None)


def test_the_old_key_exists_as_long_as_its_session(open_session: Any) -> None:
    key, options = stored(open_session, _auth_user_id="7"), {"ROTATE_AFTER": 60}
    with override_settings(SESSIONSTORES=options), at(now() + 61_000):
        session = open_session(key)
        session.get("a")
        session.save()
        assert session.session_key != key
        assert open_session().exists(key)
        session.delete()
        assert not open_session().exists(key)


def test_a_server_whose_clock_is_ahead(open_session: Any) -> None:
    """Only a record that the browser has kept must not come from the future."""
    moment = now()
    with at(moment + 10 * HOUR):
        key = stored(open_session)
    with at(moment):
        assert open_session(key).get("a") == 1


def test_a_session_is_loaded_once(engine: Any, open_session: Any) -> None:
    session = open_session(stored(open_session))
    assert session.load() == {"a": 1}
    with observed(engine.storage) as calls:
        assert session.get("a") == 1
    assert calls == []


@pytest.mark.parametrize("seconds", [0, 3600])
def test_when_a_session_ends_although_it_is_used(open_session: Any, seconds: int) -> None:
    moment = now()
    with override_settings(SESSIONSTORES={"ABSOLUTE_TIMEOUT": seconds}), at(moment):
        session = open_session(stored(open_session))
        session.get("a")
        absolute = session.deadlines().absolute
        if seconds:
            assert absolute.timestamp() * 1000 == pytest.approx(moment + seconds * 1000)
        else:
            assert absolute is None


@pytest.mark.parametrize(
    ("mine", "theirs", "is_asked"),
    [
        ({"_auth_user_id": "7", HASH_SESSION_KEY: "b"}, {"_auth_user_id": "8"}, False),
        ({"_auth_user_id": "7", HASH_SESSION_KEY: "b"}, {"_auth_user_id": "7"}, True),
        ({"_auth_user_id": "7", HASH_SESSION_KEY: "a"}, {"_auth_user_id": "7"}, False),
    ],
)
def test_of_two_logins_of_one_user_the_newest_password_counts(
    mine: dict[str, Any], theirs: dict[str, Any], is_asked: bool
) -> None:
    """Only then does a merge have to ask which password the user has."""
    base = SecretDict({"_auth_user_id": "7", HASH_SESSION_KEY: "a"})
    other = codec().serialize({HASH_SESSION_KEY: "c", **theirs})
    with mock.patch.object(verification, "is_outdated", return_value=True) as asked:
        merged = flow.run(conflicts.merge_with_stored(base, mine, other))
    assert asked.called is is_asked
    assert merged[HASH_SESSION_KEY] == (
        "b" if mine[HASH_SESSION_KEY] == "b" and not is_asked else "c"
    )


@pytest.mark.parametrize(
    ("most", "removed", "batches"),
    [(None, 1003, 3), (999, 1000, 1), (1000, 1000, 1), (1001, 1003, 2)],
)
def test_expired_sessions_are_removed_in_batches(
    engine: Any, most: int | None, removed: int, batches: int
) -> None:
    """Until there are none, or until as many are removed as were asked for."""
    with mock.patch.object(engine.storage, "purge", side_effect=[1000, 3, 0]) as purge:
        assert flow.run(purge_expired(engine.storage, most)) == removed
    assert [batch for (_, batch), _ in purge.call_args_list] == [1000] * batches


def test_a_login_replaces_a_session_that_was_found_outdated(open_session: Any) -> None:
    """Another request has set the password and has saved the session. It is left alone until the
    user logs in again here, and ends then."""
    key, ended = stored(open_session, _auth_user_id="7", **{HASH_SESSION_KEY: "old"}), list[Any]()
    session, other = open_session(key), open_session(key)
    session.get("a")
    other.set(HASH_SESSION_KEY, "new")
    other.save()

    def is_outdated(data: Any) -> bool:
        return bool(data[HASH_SESSION_KEY] == "old")

    def observe(signal: Any, sender: Any, facts: Any) -> None:
        if signal is signals.session_ended:
            ended.append((facts["session_id"], facts["reason"], facts["user_id"]))

    signals.observers.append(observe)
    try:
        with mock.patch.object(verification, "is_outdated", is_outdated):
            session.flush()
            assert open_session(key).get("a") == 1
            assert ended == []
            session.cycle_key()
            session.set("_auth_user_id", "7")
            session.save()
    finally:
        signals.observers.remove(observe)
    assert ended == [(session_id(key), "replaced", "7")]
    assert open_session(key).get("a") is None
    assert open_session(session.session_key).get("_auth_user_id") == "7"


@pytest.mark.parametrize("has_proof", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_request_without_proof_follows_its_own_key_only(
    engine: Any, number: int, has_proof: bool
) -> None:
    """The key after that may be the one of a login, by somebody else at the same browser."""
    key = stored_key(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    for _ in range(number):
        other = engine.SessionStore(key)
        other.cycle_key()
        other.save()
        key = other.session_key
    previous = session._state
    tombstone = engine.storage.read(previous.record.id)
    joining = rotation.join(session._environment(), previous, tombstone, has_proof=has_proof)
    joined = flow.run(joining)
    if has_proof or number == 1:
        assert joined is not None
        assert (joined.key, joined.is_announced) == (key, False)
    else:
        assert joined is None


# What a session knows ---------------------------------------------------------------------------


ROOMS = ("django_sessionstores.sessions.", "django_sessionstores.storages.")


def test_states_and_results_are_immutable() -> None:
    """One can be kept and gone back to, and tasks of one request can share it."""
    kinds = [
        kind
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith(ROOMS)
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind is not msgspec.Struct
    ]
    assert len(kinds) > 10
    assert [kind for kind in kinds if not kind.__struct_config__.frozen] == []


@pytest.mark.parametrize("latest", [False, True])
def test_the_old_key_leads_to_a_copy_unless_the_latest_is_asked_for(
    engine: Any, open_session: Any, latest: bool
) -> None:
    """A request that only reads costs the database nothing, if a cache has the session."""
    key, options = stored(open_session, _auth_user_id="7"), {"ROTATE_AFTER": 60}
    with override_settings(SESSIONSTORES=options), at(now() + 61_000):
        session = open_session(key)
        session.get("a")
        late = open_session(key)
        late.get("a")
        session.save()
        calls: list[str] = []
        flow.watch(lambda call, seconds, result: calls.append(call.name))
        try:
            if latest:
                late.set("b", 2)
                late.save()
            else:
                assert open_session(key).get("a") == 1
        finally:
            flow.watch(None)
    reading = ["find", "read"]
    assert calls == (["rotate", "read_latest", "update"] if latest else reading)


@pytest.mark.parametrize("limit", [0, 5])
def test_a_storage_is_wrapped_once(engine: Any, limit: int) -> None:
    with override_settings(SESSIONSTORES={"MAX_SESSIONS": limit}):
        storage = engine.SessionStore.storage()
        assert engine.SessionStore.storage() is storage
        assert (storage is engine.SessionStore.own_storage()) is (limit == 0)


def test_what_an_object_tells_of_its_key(engine: Any, open_session: Any) -> None:
    """The package's middleware and the rules for a user's sessions go by this."""
    key = stored(open_session)
    id_ = session_id(key)

    def known(session: Any) -> tuple[object, ...]:
        one = session.target
        flags = (one.has_new_key, one.is_stored, one.belongs_to_request, bool(one.drawn))
        return one.stored_ids, one.new_id, one.drawn_id, *flags

    session = open_session()
    assert known(session) == (set(), None, None, False, False, False, False)
    assert session.target.is_settled is True
    session.cycle_key()
    assert session.target.accessed
    new = session_id(session.session_key)
    assert known(session) == ({new}, new, None, True, False, True, False)
    session.save()
    assert known(session) == ({new}, new, new, False, True, True, True)

    session = open_session(key)
    assert known(session) == ({id_}, None, None, False, False, False, False)
    session.target.policy = RequestPolicy()
    assert known(session) == ({id_}, None, None, False, False, True, False)
    session.target.policy = None
    session.get("a")
    assert known(session) == ({id_}, None, None, False, True, False, False)
    session.cycle_key()
    new = session_id(session.session_key)
    assert known(session) == ({id_, new}, new, None, True, False, True, False)
    session.save()
    assert known(session) == ({new}, new, new, False, True, True, True)

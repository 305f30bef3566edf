"""What is rolled back was never stored: for the object, its cookie, caches and signals."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy, deepcopy
from traceback import walk_tb
from types import SimpleNamespace
from typing import Any, TypeVar
from weakref import ref

import pytest
from django.contrib.auth import get_user_model
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.core import clock
from django_sessionstores.core.flow import Call, Flow, run
from django_sessionstores.core.records import draw_key
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions.rollback import ProvisionalStates
from django_sessionstores.sessions.state import New, RequestPolicy
from django_sessionstores.storages.sql import transactions
from django_sessionstores.testing import DAY, Twin, at, now
from tests.sessions.test_lifetimes import limits
from tests.stored_sessions import stored

T = TypeVar("T")

TRANSACTIONAL = ("db", "cached_db", "cookie:sqlite", "cache:memcached+sqlite")
WHOLE = TRANSACTIONAL[:-1]
"""Those with which each save is part of the transaction, and not only what the registry stores."""

pytestmark = pytest.mark.engines(*TRANSACTIONAL)


class Undone(Exception):
    """Rolls back an ``atomic()`` block."""


@contextmanager
def failed_view(alias: str) -> Iterator[None]:
    with suppress(Undone), transaction.atomic(alias):
        yield
        raise Undone


@contextmanager
def set_rollback(alias: str) -> Iterator[None]:
    with transaction.atomic(alias):
        yield
        transaction.set_rollback(True, alias)


@contextmanager
def inner_block(alias: str) -> Iterator[None]:
    with transaction.atomic(alias), suppress(Undone), transaction.atomic(alias):
        yield
        raise Undone


# Django 6.1 has another name for it.
_make_savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint


@contextmanager
def savepoint(alias: str) -> Iterator[None]:
    with transaction.atomic(alias):
        point = _make_savepoint(alias)
        yield
        transaction.savepoint_rollback(point, alias)


@contextmanager
def old_savepoint(alias: str) -> Iterator[None]:
    with transaction.atomic(alias):
        point = _make_savepoint(alias)
        for _ in range(12):  # As get_or_create() makes them; their numbers have two digits.
            with transaction.atomic(alias):
                pass
        yield
        transaction.savepoint_rollback(point, alias)


@contextmanager
def no_autocommit(alias: str) -> Iterator[None]:
    transaction.set_autocommit(False, alias)
    try:
        yield
    finally:
        transaction.rollback(alias)
        transaction.set_autocommit(True, alias)


Undo = Callable[[], AbstractContextManager[None]]


@pytest.fixture(
    params=[failed_view, set_rollback, inner_block, savepoint, old_savepoint, no_autocommit]
)
def undo(request: pytest.FixtureRequest, alias: str) -> Undo:
    """Return a block whose writes are rolled back, in the database that the sessions are in."""
    return lambda: request.param(alias)


@pytest.fixture
def alias(engine: Any) -> str:
    """Return the database that the sessions, or their registry, are in."""
    return next(
        (
            part.connection().alias
            for part in (engine.storage, *engine.storage.parts())
            if hasattr(part, "connection")
        ),
        DEFAULT_DB_ALIAS,
    )


def elsewhere(call: Callable[[], T]) -> T:
    """Return what a call returns on another connection."""
    found: list[T] = []

    def ask() -> None:
        try:
            found.append(call())
        finally:
            connections.close_all()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def aged(engine: Any, **data: Any) -> str:
    """Store a session that is a minute older than others."""
    with pytest.MonkeyPatch.context() as patch:
        real = clock.now
        patch.setattr(clock, "now", lambda: real() - 61_000)
        return stored(engine, **data)


def save_elsewhere(engine: Any, key: str, **values: Any) -> Any:
    """Change a stored session as another request does, and return that request's session."""
    other = engine.SessionStore(key)
    for name, value in values.items():
        other[name] = value
    other.save()
    return other


def data_of(engine: Any, key: str | None) -> dict[str, Any]:
    data: dict[str, Any] = engine.SessionStore(key).load()
    return data


def test_the_next_save_merges_with_what_others_have_saved(engine: Any, undo: Undo) -> None:
    """It would overwrite their change, if the version that was rolled back counted."""
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    with undo():
        session.save()
        assert session.get("x") == 1
    assert session.session_key == key
    other = save_elsewhere(engine, key, b=1)
    session["y"] = 2
    session.save()
    for each in (session.session_key, other.session_key):
        assert data_of(engine, each) == {"base": 1, "x": 1, "b": 1, "y": 2}


@pytest.mark.engines(*WHOLE)
def test_a_dismissal_is_rolled_back_with_the_save_before_it(engine: Any, undo: Undo) -> None:
    """``modified = False`` had no unsaved change to dismiss. After the rollback there is one."""
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    with undo():
        session.save()
        session.modified = False
    assert session.modified
    session.save()
    assert data_of(engine, session.session_key) == {"base": 1, "x": 1}


def test_a_value_that_a_view_holds_is_the_sessions_after_a_rollback(
    engine: Any, undo: Undo
) -> None:
    """A later change of it would be lost otherwise."""
    key = stored(engine, cart=["a"])
    session = engine.SessionStore(key)
    cart = session["cart"]
    with undo():
        session["x"] = 1
        session.save()
    other = save_elsewhere(engine, key, b=1)
    session.save()
    cart.append("later")
    session.save()
    for each in (session.session_key, other.session_key):
        assert data_of(engine, each) == {"cart": ["a", "later"], "x": 1, "b": 1}


def test_a_new_session_is_not_there_and_can_be_saved_again(engine: Any, undo: Undo) -> None:
    session = engine.SessionStore()
    session["x"] = 1
    with undo():
        session.save()
        key = session.session_key
    assert data_of(engine, key) == {}
    assert session.modified
    session.save()
    assert data_of(engine, session.session_key) == {"x": 1}


def test_the_old_key_leads_on_after_a_login_that_was_rolled_back(engine: Any, undo: Undo) -> None:
    key = stored(engine, cart=1)
    session = engine.SessionStore(key)
    with undo():
        session.cycle_key()
        session["_auth_user_id"] = "7"
        session.save()
        new = session.session_key
    assert data_of(engine, new) == {}
    assert data_of(engine, key) == {"cart": 1}
    session.save()
    assert session.session_key not in {key, None}
    assert data_of(engine, session.session_key) == {"cart": 1, "_auth_user_id": "7"}
    assert data_of(engine, key) == {}


@pytest.mark.parametrize("op", ["cycle_key", "login", "login after a read"])
def test_a_new_key_in_a_transaction_that_is_tried_again(
    engine: Any, undo: Undo, alias: str, op: str
) -> None:
    """A deadlock has this effect. The session object keeps its key, and a cache keeps the copy of
    the first attempt."""
    user = {} if op.startswith("login") else {"_auth_user_id": "7"}
    key = stored(engine, cart=1, **user)
    session = engine.SessionStore(key)
    if op != "login":
        assert session["cart"] == 1

    def attempt() -> None:
        session.cycle_key()
        if op != "cycle_key":
            session["_auth_user_id"] = "7"
            session.save()

    for _ in range(2):
        with undo():
            attempt()
    with transaction.atomic(alias):
        attempt()
    session["more"] = 1
    session.save()
    assert data_of(engine, session.session_key) == {"cart": 1, "_auth_user_id": "7", "more": 1}
    assert data_of(engine, key) == {}


@pytest.mark.engines("db", "cached_db", "cache:memcached+sqlite")
@pytest.mark.parametrize("change", ["cycle_key", "rotate_later", "create"])
def test_a_new_key_that_was_rolled_back_is_kept_for_the_next_save(
    engine: Any, undo: Undo, change: str
) -> None:
    """The view may have passed it on, as the documentation says."""
    old = stored(engine, a=1)
    session = engine.SessionStore(old)
    session["b"] = 2
    with undo():
        getattr(session, change)()
        new = session.session_key
        session.save()
    assert session.session_key == new != old
    assert (data_of(engine, old), data_of(engine, new)) == ({"a": 1}, {})
    session.save()
    assert data_of(engine, session.session_key) == {"a": 1, "b": 2}
    assert data_of(engine, old) == ({"a": 1} if change == "create" else {})


def test_a_flush_leaves_the_session_and_its_data(engine: Any, undo: Undo) -> None:
    key = stored(engine, _auth_user_id="7", a=1)
    session = engine.SessionStore(key)
    assert session["a"] == 1
    with undo():
        session.flush()
    assert not session.modified
    assert session["a"] == 1
    assert data_of(engine, key) == {"_auth_user_id": "7", "a": 1}


@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
def test_the_first_read_after_a_flush_finds_the_session(
    engine: Any, undo: Undo, in_async: bool
) -> None:
    """The flush has emptied the data at hand, which is no longer what is stored."""
    session = engine.SessionStore(stored(engine, a=1))
    assert session["a"] == 1
    with undo():
        session.flush()
    assert Twin(session, in_async).get("a") == 1


@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("is_login", [False, True])
def test_a_deletion_of_what_was_not_stored_yet_is_undone(
    engine: Any, undo: Undo, is_login: bool, in_async: bool
) -> None:
    """As with Django's backends, a login of the same request is not lost."""
    session = Twin(engine.SessionStore(), in_async)
    session.cycle_key()
    if is_login:
        session.set("_auth_user_id", "7")
    session.set("a", 1)
    key = session.session_key
    with undo():
        session.delete()
    session.set("b", 2)
    session.save()
    assert session.session_key == key or engine.storage.holds_in_key
    data = {"a": 1, "b": 2, **({"_auth_user_id": "7"} if is_login else {})}
    assert data_of(engine, session.session_key) == data


def test_a_flush_of_what_was_never_stored_is_not_undone(engine: Any, undo: Undo) -> None:
    """There is nothing to go back to, and its key leads nowhere."""
    session = engine.SessionStore()
    session.cycle_key()
    with undo():
        session.flush()
    assert session.session_key is None


def test_what_was_merged_is_not_a_change_after_the_rollback(engine: Any, undo: Undo) -> None:
    """Another request may remove it again, and must not get it back."""
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    other = save_elsewhere(engine, key, b=1)
    with undo():
        session.save()
        assert session["b"] == 1
    del other["b"]
    other.save()
    session["y"] = 1
    session.save()
    assert data_of(engine, session.session_key) == {"base": 1, "x": 1, "y": 1}


def count_up(base: Any, mine: Any, theirs: Any) -> Any:
    return theirs + mine - base


def fail_to_merge(base: Any, mine: Any, theirs: Any) -> Any:
    if (base, theirs) == (0, 5):
        return count_up(base, mine, theirs)
    raise ValueError


@pytest.mark.engines(*WHOLE)
@pytest.mark.parametrize(("function", "count"), [(count_up, 7), (fail_to_merge, 12)])
def test_changes_after_a_merge_stay_when_it_is_rolled_back(
    engine: Any, undo: Undo, function: Any, count: int
) -> None:
    """The merge function of the project also takes out what it has merged. If it fails, the value
    of the view stays."""
    key = stored(engine, count=0)
    session = engine.SessionStore(key)
    session["count"] = 1
    save_elsewhere(engine, key, count=5)
    with limits(MERGE={"count": function}):
        with undo():
            session.save()
            assert session["count"] == 6
            session["count"] += 1
        session.save()
    assert data_of(engine, session.session_key) == {"count": count}


@pytest.mark.engines(*WHOLE)
@pytest.mark.parametrize("is_cycled", [False, True], ids=["login", "cycle_key"])
def test_a_superseded_key_leads_nowhere_after_the_rollback(
    engine: Any, undo: Undo, is_cycled: bool
) -> None:
    """What a login with the key before has merged is neither a change of its own nor, if the key
    has been superseded for good since, data of the session that it begins."""
    first = engine.SessionStore(stored(engine, _auth_user_id="7", base=1))
    key = first.session_key
    first.rotate_later(is_login=True)
    first.save()
    login = engine.SessionStore(key)
    login["_auth_user_id"] = "7"
    login["a"] = 1
    with undo():
        login.save()
        assert login["base"] == 1
    assert dict(login.items()) == {"_auth_user_id": "7", "a": 1}
    other = save_elsewhere(engine, first.session_key, base=2)
    if is_cycled:
        other.cycle_key()
    login.save()
    kept = {} if is_cycled else {"base": 2}
    assert data_of(engine, login.session_key) == {"_auth_user_id": "7", "a": 1, **kept}


@pytest.mark.engines("db", "cached_db")
def test_a_rotation_for_age_that_is_rolled_back_is_still_due(
    engine: Any, undo: Undo, in_requests: None
) -> None:
    key = aged(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session["a"] = 1
    with limits(ROTATE_AFTER=60):
        with undo():
            session.save()
            assert session.session_key != key
        assert dict(session.items()) == {"_auth_user_id": "7", "a": 1}
        session.save()
    assert session.session_key != key


def test_a_write_that_was_interrupted_counts_as_rolled_back() -> None:
    """Whether it will commit cannot be found out any more."""
    states, before = ProvisionalStates(), New()
    with pytest.raises(Undone), states.note_write(before):
        raise Undone
    assert [each.before for each in states.settle()] == [before]
    assert not states


def test_another_login_after_a_flush_does_not_get_the_old_key(engine: Any, undo: Undo) -> None:
    """Whoever was signed in before would be the other user then."""
    key = stored(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    with undo():
        session.flush()
        session["_auth_user_id"] = "8"
        session.save()
        new = session.session_key
    # Other code may have used the new key already.
    assert session.session_key == new
    assert session.exists(new)
    session.save()
    assert session.session_key != key
    assert data_of(engine, session.session_key) == {"_auth_user_id": "8"}
    assert data_of(engine, key).get("_auth_user_id") != "8"


def test_what_was_merged_with_a_new_key_is_not_a_change_after_the_rollback(
    engine: Any, undo: Undo
) -> None:
    """Changes of another request do not count as changes of this one, so later changes of them are
    not overwritten."""
    if engine.storage.holds_in_key:
        pytest.skip("a key that holds the session is not cycled here")
    key = stored(engine, x=0)
    session = engine.SessionStore(key)
    assert session["x"] == 0
    save_elsewhere(engine, key, x=1)
    with undo():
        session.cycle_key()
        session["y"] = 1
        session.save()
        assert session["x"] == 1
    elsewhere(lambda: save_elsewhere(engine, key, x=2))
    session.save()
    assert data_of(engine, session.session_key) == {"x": 2, "y": 1}


def test_an_object_that_gets_another_key_forgets_what_it_has_saved(engine: Any, undo: Undo) -> None:
    """Django's test client sets the key of a session object that it has used before."""
    other = stored(engine, x=1)
    session = engine.SessionStore()
    with undo():
        session["y"] = 1
        session.save()
        session._session_key = other
    assert session.session_key == other
    assert data_of(engine, session.session_key) == {"x": 1}


def test_a_flush_of_an_unread_session_that_is_rolled_back_is_not_told(
    engine: Any, undo: Undo
) -> None:
    """Neither by the session that has begun since. Nobody knows which session it was."""
    session, told = engine.SessionStore(stored(engine, x=1)), list[dict[str, Any]]()

    def note(**facts: Any) -> None:
        told.append(facts)

    signals.session_ended.connect(note)
    try:
        with undo():
            session.flush()
            session["y"] = 1
        session.save()
    finally:
        signals.session_ended.disconnect(note)
    assert told == []
    assert data_of(engine, session.session_key) == {"y": 1}


@pytest.mark.engines("memory", "db:sqlite", "cached_db:locmem+sqlite")
def test_a_write_adds_few_callbacks(engine: Any, alias: str) -> None:
    """A project's tests may count those of a transaction. The documentation says how many these
    are."""
    session, callbacks = engine.SessionStore(stored(engine, x=1)), connections[alias].run_on_commit
    added = list[int]()
    with transaction.atomic(alias):
        for change in (session.load, session.cycle_key, lambda: session.update({"x": 2})):
            before = len(callbacks)
            change()
            session.save()
            added.append(len(callbacks) - before)
    expected = {"memory": [0, 0, 0], "db": [0, 1, 1], "cached_db": [0, 3, 2]}
    assert added == expected[engine.SessionStore.__module__.rpartition(".")[2]]


def test_a_flush_after_a_rotation_is_rolled_back_with_it(engine: Any, undo: Undo) -> None:
    session = engine.SessionStore(stored(engine, x=1))
    with undo():
        session.cycle_key()
        session.save()
        session.flush()
    assert dict(session.items()) == {"x": 1}


def test_a_flush_that_was_committed_is_told_although_a_later_one_is_rolled_back(
    engine: Any, undo: Undo
) -> None:
    session, told = engine.SessionStore(stored(engine, x=1)), list[str]()
    session.policy = RequestPolicy()
    ended = session.session_id

    def note(session_id: str, **facts: Any) -> None:
        told.append(session_id)

    session.flush()
    signals.session_ended.connect(note)
    try:
        with undo():
            session["y"] = 1
            session.save()
            session.flush()
        session.settle()
    finally:
        signals.session_ended.disconnect(note)
    assert told == [ended]


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """Yield the kind and the id of each session that was created or ended, as signals tell it."""
    heard = list[tuple[str, str]]()

    def created(session_id: str, **facts: Any) -> None:
        heard.append(("created", session_id))

    def ended(session_id: str, **facts: Any) -> None:
        heard.append(("ended", session_id))

    signals.session_created.connect(created)
    signals.session_ended.connect(ended)
    yield heard
    signals.session_created.disconnect(created)
    signals.session_ended.disconnect(ended)


def test_a_deletion_by_key_that_is_rolled_back_is_not_told(
    engine: Any, undo: Undo, told: list[tuple[str, str]]
) -> None:
    key = stored(engine, x=1)
    told.clear()
    with undo():
        engine.SessionStore().delete(key)
    assert told == []
    assert data_of(engine, key) == {"x": 1}
    engine.SessionStore().delete(key)
    assert [kind for kind, _ in told] == ["ended"]


def test_what_is_committed_is_told_in_its_order(
    engine: Any, alias: str, told: list[tuple[str, str]]
) -> None:
    with transaction.atomic(alias):
        session = engine.SessionStore()
        session.save()
        engine.SessionStore().delete(session.session_key)
        assert told == []
    assert told == [("created", session.session_id), ("ended", session.session_id)]


def test_a_session_that_two_logins_in_a_transaction_replace_is_told_once(
    engine: Any, undo: Undo, told: list[tuple[str, str]]
) -> None:
    """Only by the save after the rollback, which replaces it for good."""
    session = engine.SessionStore(stored(engine, _auth_user_id="1"))
    session.policy = RequestPolicy()
    session.load()
    ended = session.session_id
    told.clear()
    with undo():
        for user in ("2", "3"):
            session.flush()
            session["_auth_user_id"] = user
    assert told == []
    session.save()
    assert told == [("ended", ended), ("created", session.session_id)]


def test_a_login_and_a_logout_that_are_rolled_back_are_not_told(
    engine: Any, undo: Undo, told: list[tuple[str, str]]
) -> None:
    key = stored(engine, _auth_user_id="1")
    session = engine.SessionStore(key)
    session.policy = RequestPolicy()
    session.load()
    told.clear()
    with undo():
        session.flush()
        session["_auth_user_id"] = "2"
        session.flush()
    session.settle()
    assert told == []
    assert data_of(engine, key) == {"_auth_user_id": "1"}


def test_a_flush_is_told_although_the_report_of_it_is_rolled_back(
    engine: Any, undo: Undo, told: list[tuple[str, str]]
) -> None:
    session = engine.SessionStore(stored(engine, x=1))
    session.policy = RequestPolicy()
    ended = session.session_id
    told.clear()
    session.flush()
    with undo():
        session.flush()
    session.settle()
    assert told == [("ended", ended)]


def test_a_save_that_another_task_has_overtaken_is_not_told_if_it_is_rolled_back(
    engine: Any, undo: Undo, told: list[tuple[str, str]]
) -> None:
    session = engine.SessionStore()
    session["x"] = 1
    with undo():
        saving = session._save()
        call = next(saving)
        while call.name != "create":
            call = saving.send(getattr(call.target, call.name)(*call.args))
        created = call.target.create(*call.args)
        session.flush()
        with suppress(StopIteration):
            while True:
                call, created = saving.send(created), None
                created = getattr(call.target, call.name)(*call.args)
    assert told == []


@pytest.mark.parametrize("operation", ["save", "cycle_key", "create", "flush", "delete"])
def test_the_first_operation_after_a_flush_that_was_rolled_back(
    engine: Any, undo: Undo, operation: str
) -> None:
    """Each finds the session as it was, whatever it asks for first."""
    key = stored(engine, _auth_user_id="7", x=1)
    session = engine.SessionStore(key)
    assert session["x"] == 1
    with undo():
        session.flush()
    getattr(session, operation)()
    found = data_of(engine, session.session_key or key)
    if operation in {"save", "cycle_key"}:
        assert found == {"_auth_user_id": "7", "x": 1}
    else:
        assert found == {}


def test_signals_tell_only_what_was_committed(engine: Any, undo: Undo) -> None:
    key = stored(engine, _auth_user_id="7")
    told = []

    def note(signal: Any, **facts: Any) -> None:
        told.append(signal)

    watched = (signals.session_created, signals.session_rotated, signals.session_ended)
    for signal in watched:
        signal.connect(note)
    try:
        with undo():
            stored(engine, x=1)
            session = engine.SessionStore(key)
            session.cycle_key()
            session.save()
            session.flush()
        assert told == []
    finally:
        for signal in watched:
            signal.disconnect(note)


def test_signals_of_a_read_do_not_wait_for_the_commit(engine: Any, undo: Undo) -> None:
    """A rollback does not change what a request has found."""
    expired, unknown = stored(engine, _auth_user_id="7"), draw_key()
    reasons = []

    def note(reason: str, **facts: Any) -> None:
        reasons.append(reason)

    watched = (signals.session_rejected, signals.session_ended)
    for signal in watched:
        signal.connect(note)
    try:
        with undo():
            engine.SessionStore(unknown).load()
            with at(now() + 15 * DAY):
                engine.SessionStore(expired).load()
            assert reasons == ["unknown", "expired"]
        assert reasons == ["unknown", "expired"]
    finally:
        for signal in watched:
            signal.disconnect(note)


@pytest.mark.engines(*WHOLE)
def test_a_rollback_is_noticed_while_something_keeps_the_callback(
    engine: Any, alias: str, undo: Undo
) -> None:
    """The traceback of a caught error keeps it until the garbage is collected."""
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    with undo():
        session.save()
        kept = list(connections[alias].run_on_commit)
    assert kept
    save_elsewhere(engine, key, b=1)
    session["y"] = 2
    session.save()
    assert data_of(engine, session.session_key) == {"base": 1, "x": 1, "b": 1, "y": 2}


@pytest.mark.engines("db:sqlite")
def test_a_rollback_is_noticed_although_earlier_callbacks_stay(engine: Any, alias: str) -> None:
    with transaction.atomic(alias):
        transaction.on_commit(lambda: None, using=alias)
        with inner_block(alias):
            committed = transactions.after_commit(connections[alias], lambda: None)
        assert committed() is False


@pytest.mark.engines("db:sqlite")
def test_a_rollback_that_drops_earlier_callbacks_only_is_none(engine: Any, alias: str) -> None:
    """Django takes a savepoint for one before it, if it has begun to count anew."""
    connection = connections[alias]
    connection.clean_savepoints()
    with transaction.atomic(alias):
        with transaction.atomic(alias):
            transaction.on_commit(lambda: None, using=alias)
        connection.clean_savepoints()
        committed = transactions.after_commit(connection, lambda: None)
        with suppress(Undone), transaction.atomic(alias):
            raise Undone
        assert len(connection.run_on_commit) == 1
        assert committed() is None
    assert committed() is True


@pytest.mark.parametrize("copied", [copy, deepcopy])
def test_a_copy_and_its_original_each_notice_a_rollback(
    engine: Any, undo: Undo, copied: Callable[[Any], Any]
) -> None:
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    with undo():
        session.save()
        other = copied(session)
        other["y"] = 1
    assert other.modified
    assert session.modified
    other.save()
    session["z"] = 1
    session.save()
    assert data_of(engine, other.session_key) == {"base": 1, "x": 1, "y": 1, "z": 1}


@pytest.mark.engines("db:sqlite")
def test_a_session_is_pickled_when_it_is_certain_what_is_stored(engine: Any, alias: str) -> None:
    session = engine.SessionStore()
    session["x"] = 1
    with transaction.atomic(alias):
        session.save()
        with pytest.raises(TypeError, match="transaction"):
            pickle.dumps(session)
    other = pickle.loads(pickle.dumps(session))
    assert other.is_stored
    assert other["x"] == 1


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_sessions_end_with_their_user_although_their_own_database_rolls_back(
    engine: Any, alias: str, undo: Undo, caplog: pytest.LogCaptureFixture
) -> None:
    """The users are in another database, which has committed."""
    assert alias != DEFAULT_DB_ALIAS
    user = get_user_model()._default_manager.create_user("ada")
    key = stored(engine, _auth_user_id=str(user.pk))
    told: list[str] = []

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    signals.session_ended.connect(note)
    try:
        with undo():
            user.is_active = False
            user.save()
            assert data_of(engine, key) == {}
            assert told == []
    finally:
        signals.session_ended.disconnect(note)
    assert data_of(engine, key) == {}
    assert told == ["deactivated"]
    assert "ended again" in caplog.text
    assert not connections[alias].in_atomic_block


@pytest.mark.engines("db:postgresql")
def test_what_follows_a_rollback_does_not_hide_its_cause(
    engine: Any, alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    with failed_view(alias):
        stored(engine, x=1)
        engine.storage.after_rollback(fail)
    assert "no luck" in caplog.text
    with transaction.atomic(alias):
        key = stored(engine, x=1)
    assert data_of(engine, key) == {"x": 1}


@pytest.mark.engines("db:sqlite")
def test_a_driver_keeps_no_call(engine: Any) -> None:
    """The tracebacks of errors that a flow has caught refer to the frame of its driver."""

    class Told:
        """What a call was made with."""

    def fail(*args: object) -> None:
        raise ValueError

    def flow() -> Flow[Exception | None]:
        target = SimpleNamespace(fail=fail, tell=lambda told: None)
        try:
            yield Call(target, "fail", ())
        except ValueError as error:
            caught = error
        told = Told()
        tellers.append(ref(told))
        call = Call(target, "tell", (told,))
        del told
        yield call
        return caught

    tellers: list[ref[Told]] = []
    error = run(flow())
    assert error is not None
    frames = [frame.f_locals for frame, _ in walk_tb(error.__traceback__)]
    assert any("flow" in each for each in frames)
    assert all(each.get("call") is None for each in frames if "watcher" in each)


def test_callbacks_of_the_commit_find_the_session_stored(engine: Any, alias: str) -> None:
    """Those of the project may have been registered first, and one of them may fail."""
    key = stored(engine, base=1)
    session = engine.SessionStore(key)
    session["x"] = 1
    found: list[object] = []

    def fail() -> None:
        found.append((session.is_stored, session.session_key, session.modified))
        raise Undone

    with suppress(Undone), transaction.atomic(alias):
        transaction.on_commit(fail, using=alias)
        session.save()
        expected = (True, session.session_key, session.modified)
    assert found == [expected]
    save_elsewhere(engine, key, x=2)
    session["y"] = 1
    session.save()  # It would store x again, if it took its first save for one that failed.
    assert data_of(engine, session.session_key) == {"base": 1, "x": 2, "y": 1}


def test_an_end_is_told_although_a_callback_of_the_commit_fails(engine: Any, alias: str) -> None:
    """Django calls no callback after one that has failed."""
    session, told = engine.SessionStore(stored(engine, _auth_user_id="7")), list[str]()
    session.load()

    def fail() -> None:
        raise Undone

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    signals.session_ended.connect(note)
    try:
        with suppress(Undone), transaction.atomic(alias):
            transaction.on_commit(fail, using=alias)
            session.flush()
    finally:
        signals.session_ended.disconnect(note)
    assert told == ["logout"]


@pytest.mark.parametrize("then", ["rollback", "commit", "nothing"])
def test_with_autocommit_off_a_commit_is_one(engine: Any, alias: str, then: str) -> None:
    """Django would call nobody until autocommit is on again, and forget them at a rollback."""
    key = stored(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    told: list[str] = []

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    signals.session_ended.connect(note)
    transaction.set_autocommit(False, alias)
    try:
        session.flush()
        assert told == []
        transaction.commit(alias)
        assert told == ["logout"]
        assert not transaction.get_autocommit(alias)
        if then != "nothing":
            getattr(transaction, then)(alias)
    finally:
        transaction.rollback(alias)
        transaction.set_autocommit(True, alias)
        signals.session_ended.disconnect(note)
    assert told == ["logout"]
    assert data_of(engine, key) == {}
    session["x"] = 1
    session.save()
    assert session.session_key != key
    assert data_of(engine, session.session_key) == {"x": 1}


@pytest.mark.engines("cached_db")
def test_a_logout_without_autocommit_is_final_when_it_is_committed(engine: Any, alias: str) -> None:
    """Another process may have put a copy into the cache before the commit."""
    key = stored(engine, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    transaction.set_autocommit(False, alias)
    try:
        session.flush()
        if engine.storage.authority.connection().vendor != "sqlite":
            assert elsewhere(lambda: data_of(engine, key)) == {"_auth_user_id": "7"}
        transaction.commit(alias)
        assert elsewhere(lambda: data_of(engine, key)) == {}
    finally:
        transaction.rollback(alias)
        transaction.set_autocommit(True, alias)


@pytest.mark.engines("db:sqlite")
def test_what_the_package_touches_of_django(engine: Any) -> None:
    """Should Django change it, this test fails rather than a site."""
    connection = connections[engine.storage.connection().alias]
    assert connection.run_on_commit == []
    touched = {"savepoint_ids", "savepoint_state", "run_on_commit", "commit_on_exit"}
    assert touched <= set(vars(connection))
    done: list[str] = []
    with transaction.atomic(connection.alias):
        transactions.after_commit(connection, lambda: done.append("committed"))
        transaction.on_commit(lambda: done.append("Django's"), using=connection.alias)
        ours, djangos = connection.run_on_commit
        assert len(ours) == len(djangos)
        assert done == []
    assert done == ["committed", "Django's"]
    transactions.after_commit(connection, lambda: done.append("at once"))
    assert done[-1] == "at once"


@pytest.mark.engines("cache:memcached+sqlite")
def test_what_others_save_before_the_commit_comes_along_to_the_new_key(engine: Any) -> None:
    """The data is in a cache, which knows no transaction, and the registry in a database."""
    key = stored(engine, base=1, old=1)

    def save() -> None:
        other = engine.SessionStore(key)
        other["b"] = other.get("b", 0) + 1
        other.pop("old", None)
        other.save()
        connections.close_all()

    with transaction.atomic(engine.storage.registry.connection().alias):
        session = engine.SessionStore(key)
        session.cycle_key()
        session["_auth_user_id"] = "7"
        session.save()
        for _ in range(2):
            thread = threading.Thread(target=save)
            thread.start()
            thread.join()
    assert data_of(engine, key) == {}
    assert data_of(engine, session.session_key) == {"base": 1, "b": 2, "_auth_user_id": "7"}


@pytest.fixture
def repeatable_read(engine: Any, alias: str) -> Iterator[Any]:
    """Yield the connection, whose transactions see what was there when they began."""
    connection = connections[alias]
    options = connection.settings_dict.setdefault("OPTIONS", {})
    before = dict(options)
    options["isolation_level"] = "repeatable read"
    connection.close()
    yield connection
    options.clear()
    options.update(before)
    connection.close()


@contextmanager
def snapshot(connection: Any) -> Iterator[None]:
    """Open a transaction that has read before others write."""
    with transaction.atomic(connection.alias):
        connection.cursor().execute("SELECT COUNT(*) FROM django_sessionstores_storedsession")
        yield


@pytest.fixture
def rotate(engine: Any, in_requests: None) -> Iterator[Callable[[str], str]]:
    """Have another request save a session, which gives it another key."""

    def rotate(key: str) -> str:
        def save() -> str:
            return str(save_elsewhere(engine, key, b=1).session_key)

        new = elsewhere(save)
        assert new != key
        return new

    with override_settings(SESSIONSTORES={"ROTATE_AFTER": 60, "ROTATION_GRACE": 600}):
        yield rotate


MYSQL = pytest.mark.engines("db:mariadb")
"""Where a SELECT shows the past, although UPDATE and DELETE find what is there now."""


@pytest.mark.engines("db:sqlite")
def test_what_waits_for_a_commit_keeps_no_connection(engine: Any, alias: str) -> None:
    """A session may be kept for longer than the thread that has saved it lives."""
    connection = connections[alias].copy()
    connection.set_autocommit(False)
    committed = transactions.after_commit(connection, lambda: None)
    assert committed() is None
    connection.commit()
    assert committed() is True
    undone = transactions.after_commit(connection, lambda: None)
    kept = ref(connection)
    connection.close()
    del connection
    gc.collect()
    assert kept() is None
    assert committed() is True
    assert undone() is False


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_where_autocommit_is_off_in_the_settings(engine: Any, alias: str) -> None:
    """Nothing piles up, and a commit is one."""
    settings_dict = connections[alias].settings_dict
    before = settings_dict["AUTOCOMMIT"]
    settings_dict["AUTOCOMMIT"] = False
    connections[alias].close()
    told: list[str] = []

    def note(**facts: Any) -> None:
        told.append(facts["session_id"])

    signals.session_created.connect(note)
    try:
        for _ in range(3):
            key = stored(engine, x=1)
            connections[alias].commit()
        assert connections[alias].run_on_commit == []
        assert len(told) == 3
        assert elsewhere(lambda: data_of(engine, key)) == {"x": 1}
    finally:
        signals.session_created.disconnect(note)
        settings_dict["AUTOCOMMIT"] = before
        connections[alias].close()


@MYSQL
@pytest.mark.parametrize("is_read", [True, False])
def test_a_logout_finds_where_the_session_went_since(
    engine: Any, repeatable_read: Any, rotate: Callable[[str], str], is_read: bool
) -> None:
    key = aged(engine, _auth_user_id="7")
    with snapshot(repeatable_read):
        session = engine.SessionStore(key)
        if is_read:
            session.load()
        new = rotate(key)
        session.flush()
    assert data_of(engine, new) == data_of(engine, key) == {}


@MYSQL
def test_a_save_finds_where_the_session_went_since(
    engine: Any, repeatable_read: Any, rotate: Callable[[str], str]
) -> None:
    key = aged(engine, _auth_user_id="7", a=1)
    with snapshot(repeatable_read):
        session = engine.SessionStore(key)
        session["x"] = 1
        new = rotate(key)
        session.save()
    assert session.session_key == new
    found = data_of(engine, new)
    assert {name: found.get(name) for name in "abx"} == {"a": 1, "b": 1, "x": 1}


@MYSQL
def test_end_all_ends_what_has_rotated_and_what_has_begun_since(
    engine: Any, repeatable_read: Any, rotate: Callable[[str], str]
) -> None:
    mine = stored(engine, _auth_user_id="7")
    key = aged(engine, _auth_user_id="7")
    with snapshot(repeatable_read):
        new = rotate(key)
        begun = elsewhere(lambda: stored(engine, _auth_user_id="7"))
        assert Inventory().end_all("7", but=engine.SessionStore(mine).session_id) == 2
    assert data_of(engine, new) == data_of(engine, begun) == {}
    assert data_of(engine, mine)["_auth_user_id"] == "7"


@MYSQL
@pytest.mark.parametrize("has_signed_in_before", [True, False])
def test_a_limit_counts_who_has_signed_in_since(
    engine: Any, repeatable_read: Any, has_signed_in_before: bool
) -> None:
    with override_settings(SESSIONSTORES={"MAX_SESSIONS": 1}):
        if has_signed_in_before:
            engine.SessionStore(stored(engine, _auth_user_id="7")).flush()
        with snapshot(repeatable_read):
            other = elsewhere(lambda: stored(engine, _auth_user_id="7"))
            key = stored(engine, _auth_user_id="7")
        assert data_of(engine, other) == {}
        assert data_of(engine, key) == {"_auth_user_id": "7"}

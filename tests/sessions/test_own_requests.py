"""What a request does to its own session: under the key from before, in several tasks, by hand."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model, login
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, set_urlconf

from django_sessionstores import signals
from django_sessionstores.core import clock
from django_sessionstores.core.flow import Call, Flow
from django_sessionstores.exceptions import PartlyEnded, SessionEnded, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages.sql import transactions
from django_sessionstores.testing import observed
from tests import urls

SIGNED_IN = {SESSION_KEY: "7", HASH_SESSION_KEY: "a" * 64}


def save_by_hand(request: HttpRequest) -> HttpResponse:
    request.session["x"] = 1
    request.session.save()
    return HttpResponse("saved")


def flush_other(request: HttpRequest, key: str) -> HttpResponse:
    """Single logout: the server of the identities names a session that is not the request's."""
    type(request.session)(key).flush()
    return HttpResponse("flushed")


def replace(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    request.session = type(request.session)()
    return HttpResponse("replaced")


def give_up(request: HttpRequest) -> HttpResponse:
    """Change the key, delete the old one, and fail."""
    old = request.session.session_key
    request.session.cycle_key()
    request.session.delete(old)
    raise RuntimeError("a mistake of the view's own")


def rotate_before_an_outage(request: HttpRequest) -> HttpResponse:
    """Store another key, and fail as if the store had stopped answering."""
    request.session.cycle_key()
    raise StorageUnavailable("no route to the store")


def log_in_and_replace(request: HttpRequest, does: str) -> HttpResponse:
    """Log the user in again, and put another object for the new key in place."""
    login(request, get_user_model()._default_manager.get(username="ada"))
    if does in ("save", "fail"):
        request.session.save()
    key = request.session.session_key
    request.session = type(request.session)(key)
    if does == "exists":
        assert request.session.exists(key)
    elif does in ("read", "read and fail"):
        assert request.session[SESSION_KEY]
    elif does == "delete":
        request.session.delete()
    elif does == "delete by key":
        type(request.session)().delete(key)
    elif does == "flush":
        request.session.flush()
    if does.endswith("fail"):
        raise RuntimeError("a mistake of the view's own")
    return HttpResponse("replaced")


def copy(request: HttpRequest) -> HttpResponse:
    request.session["x"] = 1
    copied = pickle.loads(pickle.dumps(request.session))
    assert copied["x"] == 1
    return HttpResponse("copied")


urlpatterns = [
    *urls.urlpatterns,
    path("by_hand/", save_by_hand),
    path("flush/<path:key>/", flush_other),
    path("replace/", replace),
    path("give_up/", give_up),
    path("rotate_before_an_outage/", rotate_before_an_outage),
    path("copy/", copy),
    path("log_in_and_replace/<str:does>/", log_in_and_replace),
]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def stored(engine: Any) -> Callable[..., Any]:
    """Stores a session, and returns an object that has loaded it."""

    def store(**data: Any) -> Any:
        session = engine.SessionStore()
        session.update(data)
        session.save()
        loaded = engine.SessionStore(session.session_key)
        assert dict(loaded.items()).items() >= data.items()
        return loaded

    return store


@pytest.fixture
def in_request() -> Iterator[None]:
    """Do everything in the test in one request. Otherwise each object counts as a request."""
    set_urlconf(__name__)
    yield
    set_urlconf(None)


def data_of(engine: Any, key: str | None) -> dict[str, Any]:
    return dict(engine.SessionStore(key).items())


def browser_with(key: str) -> Client:
    browser = Client(raise_request_exception=False)
    browser.cookies["sessionid"] = key
    return browser


DELETIONS: dict[str, Callable[[Any, str], None]] = {
    "itself": lambda session, old: session.delete(old),
    "by an object": lambda session, old: type(session)(old).delete(),
    "by a flush": lambda session, old: type(session)(old).flush(),
    "by an empty object": lambda session, old: type(session)().delete(old),
}
"""How code may delete a key that it has kept."""


def test_an_end_that_stopped_half_way_can_be_pickled() -> None:
    """A worker of a task queue raises it, and another process reads it."""
    error = pickle.loads(pickle.dumps(PartlyEnded(3, StorageUnavailable("no route"))))
    assert (error.ended, str(error.reason)) == (3, "no route")
    assert str(error) == "no route Sessions that were ended before that: 3."


# The key from before -------------------------------------------------------------------------


@pytest.mark.authoritative
def test_a_save_that_changes_nothing_proves_the_key(engine: Any, stored: Any) -> None:
    """With SESSION_SAVE_EVERY_REQUEST, Django's middleware sends the cookie after it: a poll that
    was running while the password changed in another tab would sign the user out."""
    poll = stored(**SIGNED_IN)
    other = engine.SessionStore(poll.session_key)
    other.cycle_key()
    with pytest.raises(SessionEnded):
        poll.save()


@pytest.mark.authoritative
@pytest.mark.parametrize("data", [SIGNED_IN, {"x": 1}], ids=["signed in", "anonymous"])
def test_the_cookie_of_a_session_is_deleted_that_a_visitor_has_left(
    engine: Any, stored: Any, data: dict[str, str]
) -> None:
    """Another tab still sends the key. No login has replaced the session, so it is like any that
    has ended."""
    session = stored(**data)
    tab = browser_with(session.session_key)
    session.flush()
    session["y"] = 2
    session.save()
    assert tab.get("/read/").json() == {}
    assert tab.cookies["sessionid"].value == ""


@pytest.mark.authoritative
@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize("data", [SIGNED_IN, {"x": 1}], ids=["signed in", "anonymous"])
@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS.keys())
def test_deleting_the_old_key_leaves_the_new_one(
    engine: Any, stored: Any, data: dict[str, str], delete: Any
) -> None:
    """Code that allows a user one session ends the one whose key it knew before the login."""
    with clock.freeze(clock.now()):  # All within one millisecond.
        session = stored(**data)
        old = session.session_key
        session.cycle_key()
        session.save()
        delete(session, old)
        assert data_of(engine, session.session_key).items() >= data.items()
        assert data_of(engine, old) == {}


@pytest.mark.authoritative
@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS.keys())
@pytest.mark.parametrize("case", ["login", "visitor", "rotate later"])
def test_deleting_the_old_key_at_once_leaves_the_new_one(
    engine: Any, stored: Any, delete: Any, case: str
) -> None:
    """Before the save that gives the session the new key, as a receiver of a signal does."""
    session = stored(**{"x": 1} if case == "visitor" else SIGNED_IN)
    old, session["y"] = session.session_key, 2
    if case == "rotate later":
        session.rotate_later()
    else:
        session.cycle_key()
    if case == "login":
        session.update(SIGNED_IN)
    delete(session, old)
    session.save()
    assert data_of(engine, session.session_key).items() >= dict(session.items()).items()
    assert data_of(engine, session.session_key)["y"] == 2
    assert data_of(engine, old) == {}


@pytest.mark.authoritative
def test_a_deleted_key_is_not_valid_although_the_view_fails(engine: Any, stored: Any) -> None:
    session = stored(x=1)
    assert browser_with(session.session_key).get("/give_up/").status_code == 500
    assert data_of(engine, session.session_key) == {}


@pytest.mark.authoritative
def test_create_keeps_a_key_that_was_just_drawn(engine: Any, stored: Any) -> None:
    """Code that wants a key to exist calls it after a login, say."""
    for begin in (lambda each: each.create(), lambda each: each.save()):
        session = engine.SessionStore()
        session.update(SIGNED_IN)
        begin(session)
        first = session.session_id
        session.create()
        assert session.session_id == first
        assert data_of(engine, session.session_key).items() >= SIGNED_IN.items()
    session = stored(**SIGNED_IN)
    session.cycle_key()
    first = session.session_id
    session.create()
    assert session.session_id == first
    if engine.storage.lists:
        assert Inventory().count(user="7") == 3


@pytest.mark.authoritative
def test_create_replaces_a_session_that_has_ended(engine: Any) -> None:
    session = engine.SessionStore()
    session["x"] = 1
    session.create()
    first = session.session_id
    engine.SessionStore().delete(session.session_key)
    session.policy = RequestPolicy()  # As under the package's middleware.
    session.create()
    assert session.session_id != first
    assert data_of(engine, session.session_key) == {"x": 1}


def test_create_for_another_user_begins_another_session(engine: Any) -> None:
    """A script that makes sessions, with one object."""
    session, keys = engine.SessionStore(), []
    for pk in "78":
        session[SESSION_KEY] = pk
        session.create()
        keys.append(session.session_key)
    assert [data_of(engine, key)[SESSION_KEY] for key in keys] == ["7", "8"]


def test_create_on_a_loaded_session_begins_another_one(engine: Any, stored: Any) -> None:
    """Django's backends do the same."""
    session = stored(x=1)
    before = session.session_id
    session.create()
    assert session.session_id != before


@pytest.mark.authoritative
def test_saving_by_hand_under_a_superseded_key_is_refused_as_by_a_middleware(
    stored: Any, middleware: str
) -> None:
    session = stored(x=1)
    session.cycle_key()
    session.update(SIGNED_IN)
    old = session.stored_ids and session._state.previous.key
    session.save()
    assert browser_with(str(old)).get("/by_hand/").status_code == 400


# Several tasks -------------------------------------------------------------------------------


def _answer(call: Call) -> Any:
    return getattr(call.target, call.name)(*call.args, **call.keywords)


def _finish(flow: Flow[Any], call: Call) -> None:
    while True:
        call = flow.send(_answer(call))


@pytest.mark.authoritative
def test_a_flush_during_a_save_leaves_no_data(engine: Any, stored: Any) -> None:
    """Another tab has saved as well, and what it saved is merged when the save is answered."""
    session = stored(**SIGNED_IN)
    other = engine.SessionStore(session.session_key)
    other["card"] = "4711"
    other.save()
    session["x"] = 1
    flow = session._save()
    call = next(flow)
    while True:
        answer = _answer(call)
        if call.name == "update" and type(answer).__name__ == "Updated":
            break
        call = flow.send(answer)
    session.flush()
    with pytest.raises(StopIteration):
        flow.send(answer)
    assert dict(session.items()) == {}
    assert session.is_empty()


@pytest.mark.authoritative
def test_a_save_after_a_flush_of_another_task_stores_nothing(engine: Any, stored: Any) -> None:
    session = stored(**SIGNED_IN)
    session["x"] = 1
    flow = session._save()
    call = next(flow)
    session.flush()
    with pytest.raises(SessionEnded):
        _finish(flow, call)
    assert session.is_empty()


# In a request --------------------------------------------------------------------------------


@pytest.fixture
def ended() -> Iterator[list[tuple[str, str]]]:
    """Id and reason of the sessions that ended."""
    told: list[tuple[str, str]] = []

    def receiver(session_id: str, reason: str, **kwargs: Any) -> None:
        told.append((session_id, reason))

    signals.session_ended.connect(receiver)
    try:
        yield told
    finally:
        signals.session_ended.disconnect(receiver)


@pytest.mark.authoritative
def test_the_end_of_a_session_that_no_code_holds_any_more_is_told(
    stored: Any, ended: list[tuple[str, str]], middleware: str
) -> None:
    """Whether it was a logout or a login is known only when the request is over."""
    session = stored(**SIGNED_IN)
    browser_with("").get(f"/flush/{session.session_key}/")
    assert ended == [(session.session_id, "logout")]
    ended.clear()
    session = stored(**SIGNED_IN)
    browser_with(session.session_key).get("/replace/")
    assert ended == [(session.session_id, "logout")]


def test_the_session_of_a_request_can_be_pickled(middleware: str, engine: Any) -> None:
    """For a task queue, or a cache of the project's own."""
    # A server passes an open socket.
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True), open(__file__, "rb") as socket:
        response = Client().get("/copy/", **{"wsgi.socket": socket})
    assert response.content == b"copied"


@pytest.mark.authoritative
def test_the_page_of_an_outage_brings_the_key_that_was_stored(engine: Any, stored: Any) -> None:
    """The browser's has been superseded, and would log the user out."""
    with override_settings(MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"]):
        session = stored(**SIGNED_IN)
        browser = browser_with(session.session_key)
        assert browser.get("/rotate_before_an_outage/").status_code == 503
        assert browser.cookies["sessionid"].value != session.session_key
        assert data_of(engine, browser.cookies["sessionid"].value).items() >= SIGNED_IN.items()
        visitor = stored(x=1)  # Whose new key waits for the next save.
        browser = browser_with(visitor.session_key)
        assert browser.get("/rotate_before_an_outage/").status_code == 503
        assert browser.cookies["sessionid"].value == visitor.session_key


OF_THE_PACKAGE = "django_sessionstores.middleware.SessionMiddleware"


@pytest.mark.parametrize("does", ["nothing", "save", "exists", "read", "fail", "read and fail"])
@pytest.mark.parametrize("begins", ["user", "visitor"])
@pytest.mark.usefixtures("engine", "user")
def test_the_browser_gets_the_key_of_a_login_from_another_object(
    middleware: str, begins: str, does: str
) -> None:
    """Django keeps the key at another login of the same user. Here the old one is superseded."""
    if does.endswith("fail") and middleware != OF_THE_PACKAGE:
        pytest.skip("Django's middleware sends no cookie with an error")
    browser = Client(raise_request_exception=False)
    browser.get("/login/ada/" if begins == "user" else "/write/x/1/")
    before = browser.cookies["sessionid"].value
    status = browser.get(f"/log_in_and_replace/{does}/").status_code
    assert status == (500 if does.endswith("fail") else 200)
    # If nobody asks for the new key, nothing is stored under it, and the old session goes on.
    is_stored = does != "nothing"
    assert browser.get("/who/").content == (b"ada" if is_stored or begins == "user" else b"")
    assert (browser.cookies["sessionid"].value != before) is is_stored


@pytest.mark.authoritative
@pytest.mark.parametrize("does", ["delete", "delete by key", "flush"])
@pytest.mark.usefixtures("engine", "user", "middleware")
def test_another_object_ends_the_session_by_the_key_of_a_login(does: str) -> None:
    """Also if keys hold the data: the new one is a plain key as long as nothing is stored."""
    browser = Client()
    browser.get("/login/ada/")
    before = browser.cookies["sessionid"].value
    assert browser.get(f"/log_in_and_replace/{does}/").status_code == 200
    assert browser.get("/who/").content == b""
    assert browser_with(before).get("/who/").content == b""


@pytest.mark.engines("memory", "db:sqlite")
@pytest.mark.usefixtures("in_request")
def test_an_unread_session_is_modified_only_by_a_new_key(engine: Any, stored: Any) -> None:
    """Objects for other keys, and for the old one, cost the store nothing, as ever."""
    session, other = stored(**SIGNED_IN), stored(x=1)
    old = session.session_key
    session.cycle_key()
    with observed(engine.storage) as calls:
        assert engine.SessionStore(session.session_key).modified
        assert not any(engine.SessionStore(key).modified for key in (old, other.session_key, None))
    assert calls == []
    visitor = stored(x=1)
    visitor.cycle_key()  # Nothing is stored under the new key, so the old one is valid.
    assert not engine.SessionStore(visitor.session_key).modified


# In a transaction ----------------------------------------------------------------------------


@pytest.mark.engines("db", "cached_db")
def test_each_save_in_a_transaction_costs_the_same(engine: Any, stored: Any) -> None:
    """An import that saves its progress after each of thousands of rows."""
    session, asked = stored(x=0), []
    has_committed = transactions._Hook.has_committed

    def count(hook: Any) -> bool | None:
        asked.append(hook)
        return has_committed(hook)

    def save(times: int) -> int:
        asked.clear()
        for number in range(times):
            session["x"] = number
            session.save()
        return len(asked)

    with (
        mock.patch.object(transactions._Hook, "has_committed", count),
        transaction.atomic(engine.database),
    ):
        few = save(20)
        save(200)
        assert save(20) <= few + 20
    assert data_of(engine, session.session_key)["x"] == 19


@pytest.mark.engines("db")
def test_a_rollback_to_a_savepoint_is_seen_among_many_saves(engine: Any, stored: Any) -> None:
    session = stored(x=0)
    with transaction.atomic(engine.database):
        for number in range(5):
            session["x"] = number
            session.save()
        with suppress(ZeroDivisionError), transaction.atomic(engine.database):
            for number in range(5, 9):
                session["x"] = number
                session.save()
            _ = 1 / 0
        session["y"] = 1
        session.save()
        with observed(engine.storage) as calls:
            assert session.session_id
        assert calls == []
    found = data_of(engine, session.session_key)
    assert (found["x"], found["y"]) == (8, 1)

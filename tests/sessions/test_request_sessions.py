"""Which sessions the running code holds."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock
from weakref import ref

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, set_urlconf

from django_sessionstores.core.flow import run
from django_sessionstores.core.records import session_id
from django_sessionstores.sessions import request_sessions
from django_sessionstores.signals import session_ended
from django_sessionstores.testing import Twin


@pytest.mark.engines("memory")
def test_the_end_of_a_flushed_session_is_told_with_the_request(engine: Any) -> None:
    """Until then a login may follow, which gives another reason. Django's middleware does not tell
    the session that its request is over."""
    session, told = engine.SessionStore(), list[str]()
    session["x"] = 1
    session.save()

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    session_ended.connect(note)
    set_urlconf("tests.urls")
    try:
        session.flush()
        assert told == []
        request_sessions._finish()
        assert told == ["logout"]
    finally:
        set_urlconf(None)
        session_ended.disconnect(note)


@pytest.mark.engines("memory")
def test_code_without_an_end_of_requests_holds_few_sessions(engine: Any) -> None:
    """A worker that has called ``set_urlconf()`` counts as a request, which does not end."""
    told = list[str]()

    def note(session_id: str, **facts: Any) -> None:
        told.append(session_id)

    session_ended.connect(note)
    set_urlconf("tests.urls")
    try:
        for _ in range(3 * request_sessions._MOST):
            session = engine.SessionStore()
            session["x"] = 1
            session.save()
            session.cycle_key()
            session.flush()
        assert len(told) == 2 * request_sessions._MOST
        assert len(request_sessions.cycled()) == request_sessions._MOST
        request_sessions._finish()
        assert len(set(told)) == 3 * request_sessions._MOST
    finally:
        set_urlconf(None)
        session_ended.disconnect(note)


def flush_in_thread(session: Any) -> None:
    thread = threading.Thread(target=session.flush)
    thread.start()
    thread.join()


def hand_over(request: HttpRequest, what: str) -> HttpResponse:
    """Let a thread flush the session, which knows nothing of the request."""
    request.session.get("x")
    if what == "afterwards":
        LEFT.append(request.session)
    else:
        flush_in_thread(copy(request.session) if what == "copy" else request.session)
    return HttpResponse("done")


LEFT: list[Any] = []
urlpatterns = [path("<str:what>/", hand_over)]


@pytest.mark.engines("memory")
@pytest.mark.usefixtures("middleware")
@pytest.mark.parametrize("what", ["meanwhile", "copy", "afterwards"])
def test_the_end_of_a_session_that_a_thread_flushes_is_told(engine: Any, what: str) -> None:
    session, told = engine.SessionStore(), list[str]()
    session["x"] = 1
    session.save()
    browser = Client()
    browser.cookies[settings.SESSION_COOKIE_NAME] = session.session_key

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    session_ended.connect(note)
    try:
        with override_settings(ROOT_URLCONF=__name__):
            browser.get(f"/{what}/")
        if LEFT:
            flush_in_thread(LEFT.pop())
    finally:
        session_ended.disconnect(note)
    assert told == ["logout"]


@pytest.mark.engines("memory")
def test_holding_thousands_costs_the_next_nothing(engine: Any) -> None:
    """A command that goes through all sessions holds them all."""
    sessions = [engine.SessionStore() for _ in range(1000)]
    with mock.patch.object(request_sessions, "_nodes", wraps=request_sessions._nodes) as looked:
        sessions += [engine.SessionStore() for _ in range(4000)]
    # Each look goes through those that are held; their number doubles in between.
    assert 1 <= looked.call_count <= 3
    assert set(map(id, request_sessions.sessions())) >= set(map(id, sessions))


@pytest.mark.engines("memory")
def test_sessions_that_nobody_holds_take_no_memory(engine: Any) -> None:
    for _ in range(5000):
        engine.SessionStore()
    node = request_sessions._noted.get()
    assert node is not None
    assert node.size <= 32


@pytest.mark.engines("memory")
def test_a_session_is_kept_until_the_request_is_over(engine: Any) -> None:
    session, told = engine.SessionStore(), list[str]()
    kept = ref(session)
    set_urlconf("tests.urls")
    try:
        for _ in range(100):
            run(request_sessions.keep(session))
        del session
        assert kept() is not None
        settle: Callable[[Any], None] = lambda self: told.append("settled")  # noqa: E731
        with mock.patch.object(engine.SessionStore, "settle", settle):
            request_sessions._finish()
    finally:
        set_urlconf(None)
    gc.collect()
    assert (told, kept()) == (["settled"], None)


@pytest.mark.engines("memory")
def test_outside_of_a_request_no_session_is_kept(engine: Any) -> None:
    """A WebSocket may log out many times, and has no request that ends."""
    session = engine.SessionStore()
    kept = ref(session)
    run(request_sessions.keep(session))
    del session
    gc.collect()
    assert kept() is None


@pytest.mark.engines("memory")
@pytest.mark.parametrize("middleware", ["django.contrib.sessions", "django_sessionstores"])
@pytest.mark.parametrize("flushes", ["view", "task", "task afterwards"])
def test_the_end_of_a_flushed_session_is_told_under_asgi(
    engine: Any, middleware: str, flushes: str
) -> None:
    """Django's handler sends `request_finished` outside of the task in which the view runs. A task
    that the view has started may flush a session before that, or after it."""
    session, told = engine.SessionStore(), list[str]()
    session["x"] = 1
    session.save()
    key, tasks, may_flush = session.session_key, list[Any](), asyncio.Event()

    async def flush() -> None:
        if flushes == "task afterwards":
            await may_flush.wait()
        other = engine.SessionStore(key)
        await other.aget("x")
        await other.aflush()

    async def view(request: HttpRequest) -> HttpResponse:
        if flushes == "view":
            await request.session.aflush()
        else:
            tasks.append(asyncio.create_task(flush()))
            if flushes == "task":
                await tasks[0]
        assert told == []
        return HttpResponse("done")

    async def serve() -> None:
        cookie = f"{settings.SESSION_COOKIE_NAME}={key}".encode()
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/"}
        scope |= {"query_string": b"", "headers": [(b"cookie", cookie)]}
        async with asyncio.timeout(60):
            communicator = ApplicationCommunicator(ASGIHandler(), scope)
            await communicator.send_input({"type": "http.request", "body": b""})
            assert (await communicator.receive_output(60))["status"] == 200
            await communicator.wait(60)
            may_flush.set()
            await asyncio.gather(*tasks)

    def note(reason: str, **facts: Any) -> None:
        told.append(reason)

    urls = ModuleType("asgi_urls")
    urls.urlpatterns = [path("", view)]  # type: ignore[attr-defined]
    first = f"{middleware}.middleware.SessionMiddleware"
    session_ended.connect(note)
    try:
        with (
            mock.patch.dict(sys.modules, {"asgi_urls": urls}),
            override_settings(ROOT_URLCONF="asgi_urls", MIDDLEWARE=[first]),
        ):
            asyncio.run(serve())
    finally:
        session_ended.disconnect(note)
    assert told == ["logout"]


@pytest.mark.engines("memory")
def test_all_whose_key_was_cycled_are_known_once_each(engine: Any) -> None:
    """Code may open the session of the request under its key a second time."""
    sessions = [engine.SessionStore() for _ in range(3)]
    set_urlconf("tests.urls")
    try:
        for session in [*sessions, *sessions]:
            request_sessions.add_cycled(session)
        assert request_sessions.cycled() == sessions
        for session in sessions[-2::-1]:
            request_sessions.add_cycled(session)
        assert request_sessions.cycled() == sessions[::-1]
    finally:
        request_finished.send(sender=None)
    assert request_sessions.cycled() == []


@pytest.mark.engines("memory")
@pytest.mark.parametrize("signal", [request_started, request_finished])
def test_sessions_belong_to_one_request(engine: Any, signal: Any) -> None:
    """A thread has one request after the other, and all of them in the same context."""
    set_urlconf("tests.urls")
    try:
        session = engine.SessionStore()
        request_sessions.add_cycled(session)
        assert request_sessions.sessions() == [session]
        signal.disconnect(close_old_connections)
        signal.send(sender=None)
        assert request_sessions.sessions() == []
        assert request_sessions.cycled() == []
    finally:
        signal.connect(close_old_connections)
        set_urlconf(None)


@pytest.mark.engines("memory")
def test_only_the_first_session_of_a_request_is_the_one_of_its_cookie(engine: Any) -> None:
    """The request's own code may open the sessions of other people by their keys."""
    keys = []
    for _ in range(2):
        session = engine.SessionStore()
        session["a"] = 1
        session.save()
        keys.append(session.session_key)
    del session
    request_sessions._start()
    set_urlconf("tests.urls")
    try:
        opened = [engine.SessionStore(key) for key in keys]
        assert all(each["a"] == 1 for each in opened)
        assert request_sessions.own_ids(request_sessions.sessions()) == {session_id(keys[0])}
    finally:
        request_sessions._finish()
        set_urlconf(None)
    opened = [engine.SessionStore(key) for key in keys]
    assert request_sessions.own_ids(request_sessions.sessions()) == set()
    assert len(opened) == 2


@pytest.mark.engines("memory")
@pytest.mark.parametrize("is_held", [True, False])
def test_a_request_that_was_never_ended_is_forgotten_with_its_session(
    engine: Any, is_held: bool
) -> None:
    """Only the code of a request that goes on can hold its session, and run another request."""
    set_urlconf("tests.urls")
    try:
        session = engine.SessionStore()
        request_sessions.add_cycled(held := SimpleNamespace())
        if not is_held:
            del session
        request_sessions._start()
        assert request_sessions.cycled() == []
        request_sessions._finish()
        assert request_sessions.cycled() == ([held] if is_held else [])
    finally:
        request_sessions._finish()
        set_urlconf(None)
    assert not request_sessions.is_in_request()


@pytest.mark.engines("memory")
def test_a_request_ends_after_one_that_its_code_has_run_in_another_context(engine: Any) -> None:
    """The handler of the other one has sent one of the two signals where the first one runs."""
    set_urlconf("tests.urls")
    try:
        session = engine.SessionStore()
        request_sessions.add_cycled(held := SimpleNamespace())
        contextvars.copy_context().run(request_sessions._start)
        request_sessions._finish()
        assert request_sessions.cycled() == [held]
        request_sessions._finish()
        assert request_sessions.cycled() == []
    finally:
        request_sessions._finish()
        set_urlconf(None)
    assert session.session_key is None


@pytest.mark.parametrize("has_mark", [False, True])
def test_a_logout_marks_only_sessions_that_know_of_it(has_mark: bool) -> None:
    """A request may have a session of another package, or none."""
    session = SimpleNamespace(is_logging_out=False) if has_mark else SimpleNamespace()
    request_sessions._log_out(SimpleNamespace(session=session))
    assert vars(session) == ({"is_logging_out": True} if has_mark else {})
    request_sessions._log_out(SimpleNamespace())
    request_sessions._log_out(None)


@pytest.mark.engines("memory")
@pytest.mark.parametrize("copied", [copy, deepcopy])
def test_a_copy_is_a_session_of_the_request(engine: Any, copied: Any) -> None:
    session = engine.SessionStore()
    session["a"] = 1
    other = copied(session)
    assert {id(session), id(other)} <= set(map(id, request_sessions.sessions()))


@contextmanager
def request() -> Iterator[None]:
    request_sessions._start()
    set_urlconf("tests.urls")
    try:
        yield
    finally:
        request_sessions._finish()
        set_urlconf(None)


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:redis-cache", "cached_db:locmem+sqlite")
@pytest.mark.parametrize("in_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("does", ["read", "write", "replace", "exists", "delete", "flush"])
@pytest.mark.parametrize("data", [{"a": 1}, {"a": 1, "_auth_user_id": "7"}])
def test_a_new_key_leads_to_the_session_before_it_is_saved(
    engine: Any, in_async: bool, does: str, is_held: bool, data: dict[str, Any]
) -> None:
    """A view may replace the session of the request by another object for its new key."""
    session = engine.SessionStore()
    session.update(data)
    session.save()
    old = session.session_key
    with request():
        session = engine.SessionStore(old)
        session["b"] = 2
        Twin(session, in_async).rotate_later()
        key = session.session_key
        object_ = engine.SessionStore(key)
        if not is_held:
            session = None
        other = Twin(object_, in_async)
        if does == "exists":
            assert other.exists(key)
        elif does == "delete":
            Twin(engine.SessionStore(), in_async).delete(key)
        elif does == "flush":
            other.flush()
        else:
            if does == "replace":
                object_.clear()
            else:
                assert dict(other.items()) == {**data, "b": 2}
                assert object_.modified  # So that every middleware sends the new key.
            if does != "read":
                other.set("c", 3)
            other.save()
            assert object_.cookie_is_due
    expected: dict[str, Any] = {**data, "b": 2}
    if does in ("delete", "flush"):
        expected = {}
    elif does == "replace":
        expected = {"c": 3}
    elif does == "write":
        expected |= {"c": 3}
    assert engine.SessionStore(key).load() == expected
    assert engine.SessionStore(old).load() == {}

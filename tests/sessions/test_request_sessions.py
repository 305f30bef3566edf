"""Which sessions the running code holds."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from django.urls import set_urlconf

from django_sessionstores.sessions import request_sessions
from django_sessionstores.signals import session_ended


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
def test_a_session_that_is_kept_is_kept_once(engine: Any) -> None:
    """A WebSocket may log out many times, and has no request that ends."""
    session = engine.SessionStore()
    for _ in range(100):
        request_sessions.keep(session)
    node = request_sessions._noted.get()
    assert node is not None
    assert node.size <= 32

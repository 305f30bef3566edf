"""What tests of several folders do with stored sessions."""

from typing import Any


def stored(engine: Any, **data: Any) -> str:
    """Store a session with this data, and return its key."""
    session = engine.SessionStore()
    session.update(data)
    session.save()
    return str(session.session_key)


def is_alive(engine: Any, session: Any) -> bool:
    """Return whether a request with the key of this session would find its data."""
    return dict(engine.SessionStore(session.session_key).items()) != {}

"""Fixtures that several tests of sessions share."""

from __future__ import annotations

from typing import Any

import pytest

from django_sessionstores.testing import Twin


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def open_session(request: pytest.FixtureRequest, engine: Any) -> Any:
    """Return a function that opens the session with a key, or a new one, and calls it both ways."""
    return lambda key=None: Twin(engine.SessionStore(key), request.param)

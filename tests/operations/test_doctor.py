"""What the doctor measures."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import pytest

from django_sessionstores.models import SessionStatistics, StoredSession
from django_sessionstores.operations.doctor import ask_stores
from django_sessionstores.testing import observed


@pytest.mark.engines("memory", "db:sqlite")
def test_opening_a_connection_is_not_measured(engine: Any) -> None:
    """It takes longer than a round trip, and sessions keep their connections."""
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return events.count("lookup") * 0.250125

    with (
        observed(engine.storage, before=events.append),
        mock.patch.object(time, "perf_counter", clock),
    ):
        (store,) = ask_stores(engine.storage)
    assert events == ["lookup", "clock", "lookup", "clock"]
    assert store.milliseconds == 250.125


def test_rows_have_names() -> None:
    """Error reports and the shell show them; a whole id is not needed to tell sessions apart."""
    assert str(StoredSession(id="0123456789" * 4)) == "01234567"
    assert str(SessionStatistics(hour=5, reason="logout", number=7)) == "5 logout: 7"

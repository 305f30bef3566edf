"""Storages on servers of MongoDB, and what their clients do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from django.test import override_settings
from pymongo import monitoring

from django_sessionstores.storages.mongodb.storage import MongoDBStorage, from_settings
from tests.services import MongoDB

DATABASE = "sessions"


class Observer(monitoring.CommandListener, monitoring.ConnectionPoolListener):
    """The commands that all clients of this process send, and the connections that they open."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.events: list[monitoring.CommandStartedEvent] = []
        self.connections = 0

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name != "endSessions":  # Of a client that closes.
            self.commands.append(event.command_name)
            self.events.append(event)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass

    def connection_created(self, event: Any) -> None:
        self.connections += 1

    def _ignore(self, event: Any) -> None:
        pass

    pool_created = pool_ready = pool_cleared = pool_closed = _ignore
    connection_ready = connection_closed = _ignore
    connection_check_out_started = connection_check_out_failed = _ignore
    connection_checked_out = connection_checked_in = _ignore


observer = Observer()
# For clients that are made from now on.
monitoring.register(observer)


@contextmanager
def storage_at(server: Any, **options: Any) -> Iterator[MongoDBStorage]:
    """Yield an empty storage on a server, with these options of ``SESSIONSTORES`` in force."""
    uri = server.url() if server else ""
    stated = {"MONGODB_URI": uri, "MONGODB_DATABASE": DATABASE, **options}
    with override_settings(SESSIONSTORES=stated):
        storage = from_settings()
        try:
            yield storage
        finally:
            storage.close()


@contextmanager
def impatient(storage: MongoDBStorage, seconds: float = 0.5) -> Iterator[None]:
    """Let commands wait no longer than this, as ``DATABASE_TIMEOUT`` says.

    It is for commands that must fail. Those that must succeed need longer on a busy machine.
    """
    with mock.patch.object(storage._server, "_timeout", seconds):
        yield


def run_in_mongo(server: MongoDB, command: dict[str, Any], database: str = "admin") -> Any:
    """Return the answer to a command; it must succeed."""
    said = server.ask(command, database)
    if not said.get("ok"):
        pytest.fail(f"{command}: {said}")
    return said


@contextmanager
def failing(server: MongoDB, times: int = 1, **data: Any) -> Iterator[None]:
    """Let the next commands fail that ``data`` describes, as the fail point does."""
    point = {"configureFailPoint": "failCommand"}
    run_in_mongo(server, {**point, "mode": {"times": times}, "data": data})
    try:
        yield
    finally:
        run_in_mongo(server, {**point, "mode": "off"})

"""Random programs of the simulation, whose sessions are in MongoDB."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any, Final

import pytest

from django_sessionstores.core.flow import Call
from django_sessionstores.storages.mongodb.client import OwnClients, Server
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.testing.simulation.__main__ import main
from tests.services import MongoDB, shared_service

_COLLECTIONS: Final = 20
"""More than the simulation uses at the same time."""


class Documents(dict[str, Any]):
    """What the collection has. The simulation copies dicts to undo what it does to a store."""

    def __init__(self, server: Server, kept: list[Any] | None = None) -> None:
        super().__init__()
        self.server = server
        self.kept = kept

    def __copy__(self) -> Documents:
        held = list(self.server.collection().find()) if self.kept is None else self.kept
        return Documents(self.server, held)

    def put_back(self) -> None:
        kept, self.kept = self.kept, None
        if kept is not None:
            self.server.ask("delete_many", {})
        if kept:
            self.server.ask("insert_many", kept)


class Simulated(MongoDBStorage):
    def __init__(self, server: Server) -> None:
        super().__init__(server, "here")
        self.documents = Documents(server)

    def _call(self, *arguments: Any, **options: Any) -> Call:
        self.documents.put_back()
        return super()._call(*arguments, **options)


@cache
def clients() -> OwnClients:
    return OwnClients(shared_service(MongoDB).url(), 10, "MONGODB_URI")


numbers = itertools.count()


def storage() -> MongoDBStorage:
    server = Server(clients(), "simulation", f"s{next(numbers) % _COLLECTIONS}", 10)
    server.ask("delete_many", {})
    return Simulated(server)


def test_random_programs_break_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    engine = f"{__name__}.storage"
    try:
        assert main(["--random", "1500", "--seed", "3", "--engine", engine]) == 0
    finally:
        clients().close()
    assert "0 kinds of faults" in capsys.readouterr().out

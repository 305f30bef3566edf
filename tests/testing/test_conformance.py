"""Every engine, on every store, held to the conformance suite that the package ships."""

from typing import Any

import pytest

from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.testing import EngineContract, RequestContract, StorageContract
from tests.dumps import spoil


class TestStorage(StorageContract):
    @pytest.fixture(autouse=True)
    def _row(self, engine: Any) -> None:
        self.storage = engine.storage
        self.engine = engine

    def damage(self, session_id: str) -> None:
        spoil(self.engine, session_id)


class TestStorageAsync(TestStorage):
    awaited = True


class TestEngine(EngineContract):
    @pytest.fixture(autouse=True)
    def _row(self, engine: Any) -> None:
        self.SessionStore = engine.SessionStore


class TestEngineAsync(TestEngine):
    awaited = True


class TestRequests(RequestContract):
    @pytest.fixture(autouse=True)
    def _row(self, engine: Any) -> None:
        self.SessionStore = engine.SessionStore


class TestRequestsUnderOurMiddleware(TestRequests):
    SessionMiddleware = SessionMiddleware

"""A session engine on a storage of a project's own, which the checks cannot know by its class."""

from __future__ import annotations

from django_sessionstores.sessions import SessionStore as BaseSessionStore
from django_sessionstores.storages.base import Storage


class OwnStorage(Storage):
    """A storage of which only the contract is known."""

    def describe(self) -> str:
        return "the project's own store"

    def write_obstacle(self) -> str:
        return "The disk is read-only."


class SessionStore(BaseSessionStore):
    """A session in that storage."""

    @classmethod
    def make_storage(cls) -> Storage:
        return OwnStorage()

"""The members of the index of sessions in Redis, and what a write does to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...core.records import ID_SIZE, Record
from ..base import Storage


class Moves(NamedTuple):
    """What a write does to the indexes."""

    removed: bytes = b""
    added: bytes = b""
    expires: int = 0
    litter: int = 0
    """Members that expired before this moment are removed, a few at a time."""
    site: int = 0
    """The mark of the site to whose index the member is added."""
    other: int | None = None
    """The mark of the site from whose index the member is removed, if it is another one."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the scripts."""
        return self[:4]

    @property
    def lists_anew(self) -> bool:
        """Whether a session comes into the index that was not there."""
        return bool(self.added) and self.added != self.removed


class Member(NamedTuple):
    """A session in the index."""

    id: str
    user_id: str | None
    score: bytes = b""
    """When it expires, in milliseconds as the server writes them; empty if that is not known."""

    @classmethod
    def parse(cls, name: bytes, score: bytes) -> Member:
        """Return the member with this name in the set of all sessions."""
        user = name[ID_SIZE + 1 :].decode() if len(name) > ID_SIZE else None
        return cls(name[:ID_SIZE].hex(), user, score)

    @property
    def name(self) -> bytes:
        user = b"" if self.user_id is None else b":" + self.user_id.encode()
        return bytes.fromhex(self.id) + user


def pairs(answer: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return names and scores, from a list in which they alternate."""
    return list(zip(answer[::2], answer[1::2], strict=True))


def site_of(storage: Storage, record: Record) -> int:
    """Return the mark of the site in whose index a record is."""
    return record.site or storage.sites()[0]

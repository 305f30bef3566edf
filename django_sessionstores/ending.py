"""Ending a session by its id, also while a request gives it another one."""

from __future__ import annotations

from typing import Final

from .flow import Call, Flow
from .records import Record
from .storages.base import Page, Storage

_PAGE: Final = 500
_ROUNDS: Final = 20
"""How often a session is looked for again that keeps getting other ids."""


def end(storage: Storage, session_id: str, record: Record | None) -> Flow[str | None]:
    """End the session that is known by ``record``, its own or a tombstone; the id that it had.

    ``None`` where there is no such session. A session whose user logged in anew is another
    one. One that got another key otherwise, as by a renewal or at a change of password, is the
    same: it is found among the user's, by the moment when it began.
    """
    for _ in range(_ROUNDS):
        if (yield Call(storage, "delete", (session_id,))):
            return session_id
        if record is None or record.user_id is None or not storage.lists:
            return None
        successor = yield from _successor(storage, record)
        if successor is None:
            return None
        session_id = successor
    return None


def _successor(storage: Storage, record: Record) -> Flow[str | None]:
    cursor = ""
    while True:
        page: Page = yield Call(storage, "scan", (cursor, _PAGE, record.user_id))
        for each in page.records:
            if each.created == record.created:
                return each.id
        cursor = page.next
        if not cursor:
            return None

"""How many sessions a user may have: who is counted, who has to go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from django.core.exceptions import ImproperlyConfigured

from .flow import Call, Flow
from .records import Record
from .storages.base import Page, Storage

_PAGE: Final = 500
_ADMITTED: Final = 2
"""The version from which on a session has been admitted, or was saved since."""


def others(storage: Storage, record: Record, moment: int) -> Flow[list[Record]]:
    """The live sessions of the same user. Raises ``ImproperlyConfigured`` where none are listed."""
    if not storage.lists:
        raise ImproperlyConfigured(
            f"SESSIONSTORES['MAX_SESSIONS'] is set, and {storage.describe()} cannot tell how many "
            "sessions a user has. Set SESSIONSTORES['REGISTRY'], or choose another SESSION_ENGINE."
        )
    found: list[Record] = []
    cursor = ""
    while True:
        page: Page = yield Call(storage, "scan", (cursor, _PAGE, record.user_id))
        found += [each for each in page.records if each.id != record.id and each.is_live(moment)]
        cursor = page.next
        if not cursor:
            return found


def surplus(records: Sequence[Record], most: int) -> list[Record]:
    """Those that are too many: the ones that began first.

    Several logins at once each keep their own session and the newest of the others, so that what
    all of them keep is never more than the last of them to look has kept.
    """
    return sorted(records, key=_age, reverse=True)[most:]


def ahead(record: Record, records: Sequence[Record]) -> list[Record]:
    """Those of the others that were admitted, or began before it."""
    return [each for each in records if is_admitted(each) or _age(each) < _age(record)]


def is_admitted(record: Record) -> bool:
    return record.version >= _ADMITTED


def admitted(record: Record) -> Record:
    """The record of a session that was just stored, as one that counts."""
    # A registry hears of a save only where it changes what the registry tells: a millisecond.
    return msgspec.structs.replace(record, version=_ADMITTED, expires=record.expires + 1)


def _age(record: Record) -> tuple[int, str]:
    return record.created, record.id

"""Times, keys and records that tests of storages and engines use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from ...core import clock
from ...core.records import Record

HOUR: Final = 3_600_000
"""Milliseconds of an hour."""
DAY: Final = 24 * HOUR
"""Milliseconds of a day."""

MALFORMED_KEYS: Final = (
    *("", "short", "a" * 129, "a" * 10_000, "nul\x00nul\x00nul", "line\r\nbreak", "bell\x07bell"),
    *(
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "%2e%2e%2fetc%2fpasswd",
        "a" * 31 + "/",
    ),
    *("schlüsselschlüssel", "١٢٣٤٥٦٧٨٩٠", "a b c d e f g h", "a" * 31 + "\n", "{braces}{braces}"),
    *("'; DROP TABLE x; --", "\udcff" * 12),
)
"""Cookie values that an engine never hands out."""

SUCCESSOR: Final = "5a" * 20
"""The session id that the tombstones of the storage tests lead to."""
ORIGIN: Final = "0c" * 20
"""The session id under which the sessions of the storage tests began."""
NONCE: Final = 2**63 - 1
"""The nonce from which the storage tests derive the keys of rotated sessions: the largest one."""


@contextmanager
def at(moment: int) -> Iterator[None]:
    """Set the clock of the package to ``moment``, in milliseconds since the epoch."""
    with clock.freeze(moment):
        yield


def without_handle(record: Record | None) -> Record | None:
    """Return the record without its handle, for comparisons."""
    return record and msgspec.structs.replace(record, handle=None)


def successor(record: Record, **changes: Any) -> Record:
    """Return the next version of a record."""
    return msgspec.structs.replace(record, **{"version": record.version + 1, **changes})

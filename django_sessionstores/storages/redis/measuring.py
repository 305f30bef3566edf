"""What the index takes on a server, and what is out of order in it, for the doctor."""

from __future__ import annotations

from typing import Any, Final

from ...core.flow import run
from ...core.summary import IndexReport
from ..base import Storage
from . import index_scripts as scripts
from .client import Server
from .keys import PLACES, TAGS, id_of, sessions_key, users_key
from .rebuilding import directories_of
from .running import Evaluation

_FEWEST: Final = 1000
"""Fewer sessions say nothing of what one takes."""
_STEP: Final = TAGS // 16
"""The bytes of each so many directories are measured."""
_LIFETIME: Final = 56
"""The bytes of a record that ``MEMORY USAGE`` does not count.

They are 32 for its lifetime, and 16 to 32 for its places in two hash tables of the server.
"""
_OF_A_TAG: Final = 10
"""About how many records with the same tag are measured."""


def measure(server: Server, storage: Storage) -> IndexReport:
    """Return what the index of the site has. Changes nothing."""
    site, prefix = storage.sites()[0], server.prefix
    counts = _evaluate(
        server, [(scripts.COUNT, (key,), (0, 1)) for key in directories_of(server, (site,))]
    )
    sessions = sum(each[1] for each in counts[:TAGS])
    return IndexReport(
        sessions=sessions,
        buckets=sum(each[2] for each in counts),
        incomplete=sum(each[0] != scripts.COMPLETE_STATE for each in counts),
        evicted=sum(each[0] == scripts.LOST_STATE for each in counts),
        bytes_per_session=_bytes(server, prefix, site, sessions) if sessions >= _FEWEST else None,
    )


def _bytes(server: Server, prefix: bytes, site: int, sessions: int) -> int | None:
    """Return how many bytes a session takes with its part of the index, by a sample.

    Return ``None`` if the user has no right to ask.
    """
    tags = range(0, TAGS, _STEP)
    pages = _evaluate(
        server,
        [
            (scripts.PAGE, (sessions_key(prefix, site, tag),), (0, PLACES, _OF_A_TAG, 0, b""))
            for tag in tags
        ],
    )
    ids = [
        id_of(tag, member)
        for tag, page in zip(tags, pages, strict=True)
        for member in page[3][: 2 * _OF_A_TAG : 2]
    ]
    records = _evaluate(server, [(scripts.MEASURE, (server.key(each),), ()) for each in ids])
    index = _evaluate(
        server,
        [
            (scripts.MEASURE, (key(prefix, site, tag),), (b"index",))
            for key in (sessions_key, users_key)
            for tag in tags
        ],
    )
    known = [each for each in records if each]
    if not known or not sum(index):
        return None
    found: float = sum(known) / len(known) + _LIFETIME + sum(index) * _STEP / sessions
    return round(found)


def _evaluate(server: Server, calls: list[Evaluation]) -> list[Any]:
    return run(server.evaluate_all(calls)) if calls else []

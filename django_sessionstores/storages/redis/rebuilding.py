"""A rebuild of the index: one look at each key of the server, which several requests may share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ...core.flow import run
from ...core.records import pack_site
from ...exceptions import StorageFull, StorageUnavailable
from ..base import Storage
from . import index_scripts as scripts
from .client import ScanPlace, Server
from .keys import TAGS, ids_in, progress_key, sessions_key, sites_key, tag_of, users_key
from .members import Listing, last_day
from .running import Evaluation

_AT_ONCE: Final = 20_000
"""How many records are collected, to list those with the same tag together."""
_OF_A_TAG: Final = 100
"""How many records one script lists at most, because it keeps all others waiting."""
_SENT: Final = 4
"""How many of these scripts are sent together. The server finishes what it has read of one client,
which is up to 16 kB, before it turns to another one."""
_PREPARED: Final = 32
"""How many directories are prepared together. With 10 million sessions, each takes 0.2 ms."""
_COMPLETED: Final = 40_000_000
"""How many directories are completed together, multiplied by the number of sessions."""
_PROGRESS_TTL: Final = 60_000
"""How many milliseconds the next request has to continue a rebuild. After that it starts again."""


@dataclass
class Progress:
    """How far a rebuild has come."""

    servers: list[str]
    """What tells servers apart: after a restart, they go through their keys in another order."""
    place: ScanPlace
    total: int = 0
    filled: set[int] = field(default_factory=set)
    """Numbers of the directories in which sessions were listed."""
    others: set[int] = field(default_factory=set)
    """The marks of other sites that have sessions."""


class Rebuild:
    """A rebuild of the indexes of a site, or a part of one.

    ``keep_lock`` is called from time to time.
    """

    def __init__(self, server: Server, storage: Storage, keep_lock: Callable[[], None]) -> None:
        self._server = server
        self._storage = storage
        self._keep_lock = keep_lock
        self._directories = directories_of(server, storage.sites())
        self._progress = Progress([], ScanPlace())

    def run(self, seconds: float | None) -> int:
        """Rebuild the index, and return the number of sessions.

        With ``seconds``, go on with the rebuild of a request before, and raise `StorageUnavailable`
        after so many of them, unless the server has no memory to note how far this has come.
        """
        servers, stored = self._servers(), None
        if seconds is not None:
            stored = self._server.ask("GET", progress_key(self._server.prefix, self._site))
        progress = msgspec.msgpack.decode(stored, type=Progress) if stored else None
        if progress and progress.servers == servers:
            self._progress = progress
        else:
            self._progress = Progress(servers, ScanPlace())
            prepare: list[Evaluation] = [(scripts.PREPARE, (key,), ()) for key in self._directories]
            self._evaluate(prepare, _PREPARED)
        self._list_all(None if seconds is None else time.monotonic() + seconds)
        self._evaluate(
            [
                (scripts.COMPLETE, (key,), (int(number in self._progress.filled),))
                for number, key in enumerate(self._directories)
            ],
            max(_SENT, _COMPLETED // max(1, self._progress.total)),
        )
        marks = {*self._storage.sites(), *self._progress.others}
        self._evaluate([(scripts.NOTE_SITES, (sites_key(self._server.prefix),), tuple(marks))])
        if seconds is not None:
            self._server.ask("DEL", progress_key(self._server.prefix, self._site))
        return self._progress.total

    @property
    def _site(self) -> int:
        return self._storage.sites()[0]

    def _servers(self) -> list[str]:
        try:
            info = self._server.ask("INFO", "server")
        except StorageUnavailable:
            return []  # The user has no right to ask.
        nodes = info.values() if all(isinstance(each, dict) for each in info.values()) else [info]
        return sorted(str(each.get("run_id")) for each in nodes)

    def _list_all(self, deadline: float | None) -> None:
        """List the sessions of all records, from the place on where the rebuild is."""
        by_tag, number = defaultdict[int, list[str]](list), 0
        prefix, place = self._server.prefix, self._progress.place
        for keys in self._server.scan_pages(prefix + b"{", place):
            self._keep_lock()
            for each in ids_in(prefix, keys):
                by_tag[tag_of(each)].append(each)
                number += 1
            is_late = deadline is not None and time.monotonic() > deadline and not place.is_end
            if number >= _AT_ONCE or is_late:
                self._list(list(by_tag.values()))
                by_tag, number = defaultdict(list), 0
            if is_late and self._is_noted():
                raise StorageUnavailable(
                    f"{self._server.describe()}: the index of sessions is being rebuilt. It has "
                    f"{self._progress.total} sessions so far, and the next request goes on with "
                    "it. Try again, or run: python manage.py sessions reindex"
                )
        self._list(list(by_tag.values()))

    def _is_noted(self) -> bool:
        """Note how far the rebuild has come; return whether the server had memory for that."""
        key = progress_key(self._server.prefix, self._site)
        value = msgspec.msgpack.encode(self._progress)
        try:
            self._server.ask("SET", key, value, "PX", _PROGRESS_TTL)
        except StorageFull:
            return False
        return True

    def _list(self, ids_of_tags: Sequence[list[str]]) -> None:
        """Add records of this site to its indexes."""
        prefix, sites = self._server.prefix, self._storage.sites()
        marks, calls, batches = tuple(map(pack_site, sites)), list[Evaluation](), list[list[str]]()
        for ids in ids_of_tags:
            directories = tuple(sessions_key(prefix, site, tag_of(ids[0])) for site in sites)
            for at in range(0, len(ids), _OF_A_TAG):
                batches.append(ids[at : at + _OF_A_TAG])
                keys = (*directories, *map(self._server.key, batches[-1]))
                calls.append((scripts.LIST_RECORDS, keys, (len(marks), *marks)))
        of_users, filled = defaultdict[bytes, list[Any]](list), set[bytes]()
        for ids, (found, others) in zip(batches, self._evaluate(calls), strict=True):
            self._progress.others |= {int.from_bytes(each, "big", signed=True) for each in others}
            for number, mark, user, expires in _fours(found):
                site, session_id = sites[marks.index(mark)], ids[number - 1]
                filled.add(sessions_key(prefix, site, tag_of(session_id)))
                if user != 0:
                    listing = Listing(session_id, user.decode(), site)
                    directory, member = listing.place(prefix)
                    of_users[directory] += (member, last_day(int(expires)))
            self._progress.total += len(found) // 4
        self._evaluate(
            [
                (scripts.LIST, (key,), tuple(each[at : at + 2 * _OF_A_TAG]))
                for key, each in of_users.items()
                for at in range(0, len(each), 2 * _OF_A_TAG)
            ]
        )
        filled |= of_users.keys()
        self._progress.filled |= {
            number for number, key in enumerate(self._directories) if key in filled
        }

    def _evaluate(self, calls: Sequence[Evaluation], at_once: int = _SENT) -> list[Any]:
        parts = (calls[at : at + at_once] for at in range(0, len(calls), at_once))
        return [each for part in parts for each in run(self._server.evaluate_all(part))]


def directories_of(server: Server, sites: Sequence[int]) -> list[bytes]:
    """Return the keys of all directories of sites."""
    prefix = server.prefix
    return [
        key(prefix, site, tag)
        for site in sites
        for key in (sessions_key, users_key)
        for tag in range(TAGS)
    ]


def _fours(answer: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return zip(answer[::4], answer[1::4], answer[2::4], answer[3::4], strict=True)

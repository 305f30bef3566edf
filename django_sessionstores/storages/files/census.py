"""Numbers of sessions, for which hardly any file is opened.

A file's name and modification time say whether its session is live, and whether it has a user (see
`record_file`), and the index says which one. This holds if the index is complete and has the marks
of this site only. A file is opened if its time says nothing, or if its session may have expired in
the last minutes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from ...core.records import ID_LENGTH, Record, State
from ...core.summary import Numbers, UserCount
from ...exceptions import UnreadablePayload
from .disk import stats_in
from .folder import SHARDS, Folder
from .index import UserIndex
from .record_file import Kind, expired_time, first_time, part_of, read_owner

_MOST_ENDED: Final = 500_000
"""Of how many users' sessions that have expired the ids are kept, some 100 bytes each."""
_OF_USER: Final = part_of(Kind.OF_USER)
_OF_SESSION: Final = (_OF_USER, part_of(Kind.ANONYMOUS))
_TOMBSTONE: Final = part_of(Kind.TOMBSTONE)


class Census:
    """The numbers of the sessions in a folder. Its methods may raise ``OSError``.

    ``sites`` returns the marks of this site.
    """

    def __init__(
        self, folder: Folder, index: UserIndex, sites: Callable[[], tuple[int, ...]]
    ) -> None:
        self._folder = folder
        self._index = index
        self._sites = sites

    def is_possible(self) -> bool:
        """Return whether names and times say enough."""
        return self._index.is_complete() and self._index.sites() <= self._own()

    def count(self, now: int) -> int:
        """Return the number of live sessions."""
        return self._look(now, set()).live

    def numbers(self, now: int, most: int) -> Numbers | None:
        """Return all numbers, and the ``most`` users with the most sessions.

        ``None`` if too many sessions have expired to keep their ids in memory.
        """
        ended = set[str]()
        numbers = self._look(now, ended)
        if len(ended) == _MOST_ENDED:
            return None
        return msgspec.structs.replace(numbers, top_users=self._top_users(now, most, ended))

    def _look(self, now: int, ended: set[str]) -> Numbers:
        """Return the numbers, without users, and add the ids of users' expired sessions."""
        live_from, expired_until = first_time(now + 1), expired_time(now)
        logged_in = visitors = expired = 0
        for shard in SHARDS:
            for name, found in stats_in(f"{self._folder.path}/{shard}"):
                if len(name) != ID_LENGTH:
                    continue
                modified = found.st_mtime_ns
                is_live, part = modified >= live_from, modified % 1_000_000
                if part in _OF_SESSION and (is_live or modified < expired_until):
                    is_of_user = part == _OF_USER
                elif part != _TOMBSTONE and (record := self._read(name)) is not None:
                    is_of_user, is_live = record.user_id is not None, record.expires > now
                else:
                    continue
                if not is_live:
                    expired += 1
                    if is_of_user and len(ended) < _MOST_ENDED:
                        ended.add(name)
                elif is_of_user:
                    logged_in += 1
                else:
                    visitors += 1
        return Numbers(
            live=logged_in + visitors, logged_in=logged_in, expired=expired, top_users=[]
        )

    def _read(self, session_id: str) -> Record | None:
        """Return the session with an id, if it is one of this site."""
        with suppress(FileNotFoundError, UnreadablePayload, ValueError):
            record = read_owner(self._folder.path_of(session_id), session_id)
            if record.state is State.LIVE and record.site in self._own():
                return record
        return None

    def _own(self) -> set[int]:
        return {0, *self._sites()}

    # --- Users -----------------------------------------------------------------------------

    def _top_users(self, now: int, most: int, ended: set[str]) -> list[UserCount]:
        """Return the users with the most sessions, without those in ``ended``."""
        # The largest first. The index may have entries too many, so each number is verified.
        candidates = [(-number, user) for user, number in self._candidates(most, ended)]
        heapq.heapify(candidates)
        verified: dict[str, UserCount] = {}
        found: list[UserCount] = []
        while candidates and len(found) < most:
            _number, user = heapq.heappop(candidates)
            if user in verified:
                found.append(verified[user])
            elif (count := self._verify(user, now)) is not None:
                verified[user] = count
                heapq.heappush(candidates, (-count.sessions, user))
        return found

    def _candidates(self, most: int, ended: set[str]) -> Iterator[tuple[str, int]]:
        """Yield digests of users and their numbers of entries: of each folder, the largest."""
        for numbers in self._index.sizes(ended):
            yield from numbers.most_common(2 * most)

    def _verify(self, user: str, now: int) -> UserCount | None:
        user_ids: list[str] = []
        for entry in self._index.entries_of(user):
            record = self._read(entry.session_id)
            if record is None or record.user_id is None or record.expires <= now:
                continue
            if entry.is_of(record.user_id):
                user_ids.append(record.user_id)
        return UserCount(user_ids[0], len(user_ids)) if user_ids else None

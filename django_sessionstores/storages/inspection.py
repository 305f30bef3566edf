"""What the overview and the doctor ask a storage about all of its sessions and its store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from ..core.records import ID_SIZE, Record, draw_key, list_entry, session_id
from ..core.summary import IndexReport, Numbers, Summary, summarize
from ..exceptions import UnreadablePayload
from .outcomes import Page
from .site_marks import SiteMarks

_MOST_DRAWN: Final = 20_000
"""How many ids are drawn at most to find one for each node: less than half a second."""


class ManyTries(NamedTuple):
    """How often a client tries a server that hangs, if that is more often than twice."""

    number: int
    """The number of tries; 0 if there is no limit."""
    setting: str
    """The setting to look at."""
    value: str
    """The value that it should have, as Python code."""


class Members(NamedTuple):
    """The members of the store's replica set that its client has found."""

    number: int
    not_ready: Sequence[str]
    """The names of those that do not answer, or that do not have the data yet."""


class Inspection(SiteMarks):
    """The base class of `Storage` that answers operators, not requests."""

    self_expiring: bool
    """See `Storage.self_expiring`."""

    def describe(self) -> str:
        """See `Storage.describe`."""
        raise NotImplementedError

    def place(self) -> str:
        """Return a text that two storages have in common if they see each other's records.

        It may have secrets, and is only compared.
        """
        return self.describe()

    def nodes(self) -> dict[str, str]:
        """Return the nodes over which the store spreads sessions, for the doctor.

        The keys are their names; that of the only one is empty. The values are unused ids, of
        which each belongs to its node. It is empty if this process must not store anything, because
        what it would make is in the way of the site's own processes. Raises `StorageUnavailable` if
        the store has to say which nodes it has, and does not.
        """
        return draw_ids([""], lambda _: "")

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`."""
        raise NotImplementedError

    def first_expired(self, now: int) -> str:
        """Return the cursor of a scan that begins after the live records.

        It is empty if the order of the storage does not allow that. Does not ask the store.
        """
        return ""

    def lookup(self, session_id: str) -> Record | None:
        """See `Storage.lookup`."""
        raise NotImplementedError

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        """Return what `Storage.lookup` returns for each id, without the payloads of sessions.

        Ids without a record, and those of records that cannot be read, are left out. Callers pass
        `MOST_AT_ONCE` ids at most. A storage does this in one statement or pipeline if it can; the
        default looks up one id after the other.
        """
        found = {}
        for each in session_ids:
            with suppress(UnreadablePayload):
                if (record := self.lookup(each)) is not None:
                    found[each] = list_entry(record)
        return found

    async def hear_ends(self, tell: Callable[[str], object]) -> None:
        """Call ``tell`` with the id of each session that any process ends, until cancelled.

        Return at once if the store cannot tell. A session that ends may be left out, because the
        connection was lost or for any other reason; callers also look for themselves. Raises
        `StorageUnavailable` when the connection is lost.
        """

    def stated_id(self, key: str) -> str | None:
        """Return the session id that a key states, for logs; ``None`` if it states none.

        Nothing may rely on it: for a key that cannot be read, it is what its sender has written,
        and `Storage.identify` returns ``None``.
        """
        return session_id(key)

    def database(self) -> str | None:
        """Return the alias of Django's database that has the records; ``None`` for other stores."""
        return None

    def folder(self) -> tuple[str, str] | None:
        """Return the path of the folder that has the records, and the setting to look at.

        Return ``None`` for other stores.
        """
        return None

    def write_obstacle(self) -> str:
        """Return what keeps this process from writing to the store, for the doctor.

        It is empty if nothing is known to. Does not write, and does not raise.
        """
        return ""

    def missing_timeout(self) -> str:
        """Return the setting that limits how long a call waits for a store that hangs.

        It is empty if there is a limit, or if that is not known. Does not ask the store.
        """
        return ""

    def many_tries(self) -> ManyTries | None:
        """Return how often the client tries a server that hangs, if that is more often than twice.

        Return ``None`` otherwise, or if that is not known. Does not ask the store.
        """
        return None

    def summarize(self, now: int, limit: int) -> Summary:
        """Return counts of all sessions, or of a random sample of at least ``limit`` of them.

        Only if the storage `lists`. The default is for a storage that lists sessions in the order
        of their ids: ids are digests, so the sessions after a random id are a random sample.
        """
        start = secrets.token_hex(ID_SIZE)
        # What the store has removed has no record to count.
        floor = now if self.self_expiring else 0
        page = self.scan(start, limit, None, floor)
        records = page.records
        if not page.next:
            # From the first id up to the random one. One more tells whether there are others.
            first = self.scan("", limit - len(records) + 1, None, floor)
            records = [*records, *(each for each in first.records if each.id <= start)]
        is_whole = not page.next and len(records) <= limit
        return summarize(records[:limit], now, is_whole=is_whole)

    def numbers(self, now: int, most: int) -> Numbers | None:
        """Return the numbers of all sessions, and the ``most`` users with the most sessions.

        Return ``None`` if the store would have to read each session for that. Only if the storage
        `lists`.
        """
        return None

    def index_is_complete(self) -> bool | None:
        """Return whether the index has all sessions; ``None`` if there is no index.

        Asks the store.
        """
        return None

    def index_report(self) -> IndexReport | None:
        """Return what the index has, and what is out of order in it, for the doctor.

        Return ``None`` if the storage does not tell. Asks the store, and changes nothing.
        """
        return None

    def reindex(self) -> int | None:
        """Rebuild the index from the records, while others write; return its number of sessions.

        Return ``None`` if there is no index besides the records.
        """
        return None

    def missing_indexes(self) -> Sequence[str]:
        """Return the names of the indexes that `make_indexes` would make. Asks the store."""
        return ()

    def has_other_content(self) -> bool:
        """Return whether something that is not a session is where only sessions should be.

        Asks the store.
        """
        return False

    def members(self) -> Members | None:
        """Return the members of the replica set in which the store acknowledges writes.

        Return ``None`` if it is none, or if the client does not know its members. Takes some
        seconds if one does not answer. Does not raise.
        """
        return None

    def make_indexes(self) -> Sequence[str]:
        """Make what the store itself needs to find and to remove records, if it is not there.

        Return the names of those that were made. ``migrate`` and ``manage.py sessions reindex``
        call it. A table has its indexes by its own migrations.
        """
        return ()

    def eviction_policy(self) -> str:
        """Return the store's name for the policy by which it drops sessions when it is full.

        It is empty if the store does not drop sessions in use, or does not say. Asks the store.
        """
        return ""


def draw_ids(nodes: Collection[str], node_of: Callable[[str], str]) -> dict[str, str]:
    """Return a session id for each node, see `Inspection.nodes`.

    ``node_of`` returns the node of an id. A node that has no ids is left out.
    """
    if len(nodes) == 1:
        return {"": session_id(draw_key())}
    found = dict[str, str]()
    for _ in range(_MOST_DRAWN):
        each = session_id(draw_key())
        found.setdefault(node_of(each), each)
        if found.keys() >= set(nodes):
            break
    return {node: found[node] for node in nodes if node in found}

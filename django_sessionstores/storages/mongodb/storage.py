"""Records as documents of a collection of MongoDB."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from pymongo import DESCENDING, DeleteOne, ReplaceOne

from ...conf import engine_setting, engine_setting_name, full_name, settings
from ...core import clock
from ...core.flow import Call, Flow, arun, run
from ...core.records import ID_SIZE, TOMBSTONES, Record, State, is_session_id
from ...core.summary import Numbers, Summary, summarize
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import (
    LITTER_AGE,
    Conflict,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    expiry_cursor,
    expiry_page,
    place_of_cursor,
)
from ..flows import FlowStorage
from ..inspection import Members
from ..outcomes import MOST_EXPIRES, Unconfirmed, is_removal
from . import ends, indexes
from .client import (
    Clients,
    Duplicate,
    GivenClient,
    OwnClients,
    Server,
    check_address,
    hosts_of,
    timeout_for,
)
from .documents import (
    FIRST_KEY,
    LAST_KEY,
    LIST_FIELDS,
    Document,
    document_of,
    entry_of,
    key_of,
    moment,
    record_of,
)
from .numbers import numbers_of, numbers_of_users

_MAX_DOCUMENT: Final = 16 * 1024 * 1024
"""The size of the largest document that MongoDB stores."""
_OTHER_FIELDS: Final = 64 * 1024
"""More than the fields of a document take besides its payload."""
_NO_VERSION: Final = -1
"""A version that no record has."""
_ENDED_VERSION: Final = 0
"""The version of a session that `MongoDBStorage.end_many` is about to remove: one that no request
has seen, so that none replaces it."""
_CONFIRM_SECONDS: Final = 2.0
"""How long a rotation whose answer was lost is waited for once more."""
_MARK_AGE: Final = 5000
"""Milliseconds after which a call that has marked sessions to end them has failed."""
_MOST_KEPT: Final = 1000
"""How many ends that were not finished this process knows."""
_BEFORE_ALL: Final = moment(-(2**63))
"""A moment that is not after any other."""
_LAST: Final = moment(MOST_EXPIRES)
"""The last moment at which a session can expire."""

NUMBERS_SECONDS: Final = 60
"""How long counting all sessions of all users may take."""
_BY_ID: Final = {"_id": 1}
"""The index that every collection has. In a clustered one, its name is not always ``_id_``."""

Filter = dict[str, Any]


def from_settings() -> MongoDBStorage:
    """Return the storage that the options of ``SESSIONSTORES``, or of a previous backend, name.

    Opens no connection. Raises ``ImproperlyConfigured``.
    """
    uri, path = engine_setting("MONGODB_URI"), engine_setting("MONGODB_CLIENT")
    of_uri, of_path = map(engine_setting_name, ("MONGODB_URI", "MONGODB_CLIENT"))
    if bool(uri) is bool(path):
        raise ImproperlyConfigured(
            f"Set either {of_uri}, such as 'mongodb://HOST:PORT/DATABASE', or {of_path}, and not "
            "both."
        )
    check_address(uri, of_uri)
    timeout = timeout_for(uri)
    clients: Clients = OwnClients(uri, timeout, of_uri) if uri else GivenClient(path, of_path)
    names = engine_setting("MONGODB_DATABASE"), engine_setting("MONGODB_COLLECTION")
    server = Server(clients, *names, timeout)
    collection = server.collection().full_name
    return MongoDBStorage(server, place=repr((hosts_of(uri), path, collection)))


class MongoDBStorage(FlowStorage):
    """Records as documents, which an index of the server removes some time after they expire.

    A write names the version that it replaces. If the client sends it once more, because the answer
    to the first one was lost, a replica set knows that it has carried it out.
    """

    asks_for_rights = True
    self_expiring = True
    lists = True
    indexes_users = True
    indexes_counts = True
    max_payload = _MAX_DOCUMENT - _OTHER_FIELDS

    def __init__(self, server: Server, place: str) -> None:
        self._server = server
        self._place = place
        self._unconfirmed = deque[str](maxlen=_MOST_KEPT)
        """The ids of sessions that the server has removed, but not on enough members."""
        self._ended = deque[bytes](maxlen=_MOST_KEPT)
        """The marks of sessions that have ended and could not be removed."""

    def describe(self) -> str:
        return self._server.describe()

    def place(self) -> str:
        return self._place

    @property
    def native_async(self) -> bool:
        return self._server.is_native

    # --- Records ---------------------------------------------------------------------------

    def _read(self, session_id: str) -> Flow[Record | None]:
        document = yield self._call("find_one", {"_id": key_of(session_id)})
        return None if document is None else record_of(document)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        try:
            yield self._call("insert_one", document_of(record))
        except Duplicate:
            # A server without a replica set does not know that it has carried out a write.
            if record.state is State.LIVE:
                with suppress(UnreadablePayload):
                    if _is_same((yield from self._read(record.id)), record):
                        return Updated(record)
            return Taken()
        return Updated(record)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        unchanged = _unchanged(base, now)
        if is_removal(record):
            is_done = (yield self._call("delete_one", unchanged)).deleted_count
        else:
            is_done = (
                yield self._call("replace_one", unchanged, document_of(record))
            ).matched_count
        if is_done:
            return Updated(record)
        return (yield from self._refusal(record, base, now))

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        times = {"expires": moment(expires), "last_activity": moment(last_activity)}
        written = yield self._call("update_one", _unchanged(base, now), {"$max": times})
        return bool(written.matched_count)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        """See `Storage.rotate`. The two steps are two statements of one command.

        The second one is not carried out if the first one fails. If the server dies in between, the
        client repeats the command, and the server carries out the second one only. If it cannot,
        a session is left whose key nobody has. A transaction would prevent that, and take a
        command more for its commit.
        """
        is_free = {"_id": key_of(record.id), "version": _NO_VERSION}
        statements = [
            # A document with another version is in the way of the one that would be inserted.
            ReplaceOne(is_free, document_of(record), upsert=True),
            ReplaceOne(_unchanged(base, now), document_of(tombstone)),
        ]
        try:
            written = yield self._call("bulk_write", statements)
        except Duplicate:
            return Taken()
        except StorageUnavailable as error:
            if not error.was_sent:
                raise
            if not (yield from _is_rotated(self._server, base, tombstone)):
                with _after_a_write():
                    yield from self._remove(record)
                raise
            return Updated(record)
        if written.matched_count:
            return Updated(record)
        with _after_a_write():
            yield from self._remove(record)
        return (yield from self._refusal(record, base, now))

    def _delete(self, session_id: str) -> Flow[bool]:
        may_end = {"_id": key_of(session_id), **self._may_end()}
        is_live = {**may_end, "expires": {"$gt": moment(clock.now())}}
        # Unlike a plain deletion, an error of these says what was removed.
        try:
            removed = yield self._call("bulk_write", [DeleteOne(is_live)])
        except Unconfirmed:
            self._unconfirmed.append(session_id)
            raise
        if not removed.deleted_count:
            # Removed by the call before, and the majority knows it now. Of several threads that end
            # it at the same time, one finds it here.
            with suppress(ValueError):
                self._unconfirmed.remove(session_id)
                return True
            # What has expired. If one command removed both, it would not tell which.
            yield self._call("bulk_write", [DeleteOne(may_end)])
        return bool(removed.deleted_count)

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        """See `Storage.end_many`. Three commands, however many sessions there are.

        A command that removes several documents does not say which. So each of them is marked by
        this call first, in place of a session that no other call can end any more. If the call
        cannot go on, another one finds the mark, and ends the session in its place.
        """
        token = _mark(clock.now())
        keys = {"$in": [key_of(each) for each in session_ids]}
        end = {
            "state": State.ENDED.value,
            "version": _ENDED_VERSION,
            "payload": b"",
            "ended_by": token,
        }
        may_end = {"_id": keys, **self._may_end()}
        unanswered: StorageUnavailable | None = None
        try:
            marking = yield self._call("update_many", may_end, {"$set": end}, hint=_BY_ID)
        except StorageUnavailable as error:
            # The client does not repeat it, but the marks tell what it has done.
            if not error.was_sent:
                raise
            unanswered = error
        else:
            if not marking.modified_count:
                return []
        marked = {"_id": keys, "ended_by": token}
        with _after_a_write():
            found = yield self._find(marked, {"_id": 1}, len(session_ids))
        if unanswered is not None and not found:
            raise unanswered
        try:
            yield self._call("delete_many", marked)
        except StorageUnavailable:
            if unanswered is not None:
                raise  # The majority may not know the marks.
            # They have ended. What is left of them goes with a purge, when they would have expired.
            self._ended.append(token)
        return [each["_id"].hex() for each in found]

    def _purge(self, now: int, batch: int) -> Flow[int]:
        # Those of others may be in the collection, although they should not.
        ours = {"_id": {"$gte": FIRST_KEY, "$lte": LAST_KEY}}
        due = {
            "$or": [
                {"expires": {"$lte": moment(now)}, "site": self._own_sites()},
                {"expires": {"$lte": moment(now - LITTER_AGE)}},
                # What is not a moment does not expire.
                {"expires": {"$not": {"$gte": _BEFORE_ALL}}},
                {"expires": {"$gt": _LAST}},
            ]
        }
        found = yield self._find({**ours, **due}, {"_id": 1}, batch)
        if not found:
            return 0
        keys = {"$in": [each["_id"] for each in found]}
        # A record may have been touched meanwhile. By itself, the server would look through the
        # index of all that have expired.
        removed = yield self._call("delete_many", {"_id": keys, **due}, hint=_BY_ID)
        return int(removed.deleted_count)

    # --- Lists -----------------------------------------------------------------------------

    def lookup(self, session_id: str) -> Record | None:
        return self.read(session_id)

    async def alookup(self, session_id: str) -> Record | None:
        return await self.aread(session_id)

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return run(self._lookup_many(session_ids))

    async def alookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return await arun(self._lookup_many(session_ids))

    def _lookup_many(self, session_ids: Sequence[str]) -> Flow[Mapping[str, Record]]:
        if not session_ids:
            return {}
        keys = {"$in": [key_of(each) for each in session_ids]}
        entries = yield from self._entries({"_id": keys}, len(session_ids))
        return {each.id: each for each in entries}

    async def hear_ends(self, tell: Callable[[str], object]) -> None:
        if settings.TELL_ENDS:
            await ends.hear(self._server, tell)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. The last to expire comes first, which is the last one used."""
        return run(self._scan(cursor, limit, user_id, live_at))

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return await arun(self._scan(cursor, limit, user_id, live_at))

    def first_expired(self, now: int) -> str:
        return expiry_cursor(now)

    def _scan(self, cursor: str, limit: int, user_id: str | None, live_at: int) -> Flow[Page]:
        wanted = self._live(user_id)
        # Without it, what has no expiry would come first or last, and no cursor could name it.
        expires: dict[str, Any] = {"$gt": moment(live_at)}
        if cursor:
            until, last_id = place_of_cursor(cursor)
            # Implied by the second condition, but the index is used for this one.
            expires["$lte"] = moment(until)
            if is_session_id(last_id):
                before = {"expires": {"$lt": moment(until)}}
                wanted["$or"] = [before, {"_id": {"$lt": key_of(last_id)}}]
        wanted["expires"] = expires
        order = [("expires", DESCENDING), ("_id", DESCENDING)]
        options = {"sort": order, "collation": indexes.SIMPLE}
        size = limit
        while True:
            found = yield self._find(wanted, LIST_FIELDS, size + 1, **options)
            entries = _entries_in(found[:size])
            if entries or len(found) <= size:
                return expiry_page(entries, limit, are_all=len(found) <= size)
            size *= 2

    def count(self, now: int, user_id: str | None) -> int:
        return run(self._count(now, user_id))

    async def acount(self, now: int, user_id: str | None) -> int:
        return await arun(self._count(now, user_id))

    def _count(self, now: int, user_id: str | None) -> Flow[int]:
        live = {**self._live(user_id), "expires": {"$gt": moment(now), "$lte": _LAST}}
        # Of one site, the server counts the keys of an index, and otherwise takes five times as
        # long. A user has few sessions.
        sites = live["site"]["$in"] if user_id is None else [live["site"]]
        number = 0
        for site in sites:
            of_site = {**live, "site": site}
            number += yield self._call("count_documents", of_site, collation=indexes.SIMPLE)
        return number

    def numbers(self, now: int, most: int) -> Numbers:
        """See `Storage.numbers`. The server reads each session for it."""
        return run(self._numbers(now, most))

    def _numbers(self, now: int, most: int) -> Flow[Numbers]:
        # A server that is down is not waited for as long as one that counts.
        yield self._call("command", {"ping": 1})
        stages = [{"$match": self._live(None)}, *numbers_of_users(now, most)]
        options = {"allowDiskUse": True, "seconds": NUMBERS_SECONDS, "collation": indexes.SIMPLE}
        (found,) = yield self._call("aggregate", stages, **options)
        return numbers_of(found)

    def summarize(self, now: int, limit: int) -> Summary:
        # Ids are digests, so the sessions after a random id are a random sample.
        start = secrets.token_bytes(ID_SIZE)
        records = run(self._sample({"$gte": start}, limit + 1))
        if len(records) <= limit:
            records += run(self._sample({"$lt": start}, limit + 1 - len(records)))
        return summarize(records[:limit], now, is_whole=len(records) <= limit)

    def _sample(self, keys: Filter, limit: int) -> Flow[list[Record]]:
        wanted = {**self._live(None), "_id": keys}
        return (yield from self._entries(wanted, limit, sort=[("_id", 1)], hint=_BY_ID))

    # --- The server ------------------------------------------------------------------------

    def missing_indexes(self) -> Sequence[str]:
        """See `Storage.missing_indexes`. One that is still being built is missing."""
        return indexes.missing(indexes.existing(self._server))

    def make_indexes(self) -> Sequence[str]:
        """See `Storage.make_indexes`. It takes `indexes.BUILD_SECONDS` at most."""
        return indexes.make(self._server)

    def reindex(self) -> int:
        """See `Storage.reindex`. The server keeps the indexes that exist."""
        self.make_indexes()
        return self.count(clock.now(), None)

    def has_other_content(self) -> bool:
        """See `Storage.has_other_content`."""
        before = {"_id": {"$not": {"$gte": FIRST_KEY}}}
        wanted = {"$or": [before, {"_id": {"$gt": LAST_KEY}}]}
        return bool(self._server.ask("find", wanted, {"_id": 1}, limit=-1))

    def members(self) -> Members | None:
        return self._server.members()

    def missing_timeout(self) -> str:
        return "" if self._server.limits_time else full_name("DATABASE_TIMEOUT")

    def close(self) -> None:
        self._server.close()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Call:
        return Call(self._server, "ask", (name, *arguments), options)

    def _refusal(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """Return why a write found no record to replace."""
        current = yield from self._read(base.id)
        if current is None or current.expires <= now:
            return Gone()
        return Updated(record) if _is_same(current, record) else Conflict(current)

    def _remove(self, record: Record) -> Flow[None]:
        """Remove a record that this call has stored."""
        yield self._call("delete_one", {"_id": key_of(record.id), "version": record.version})

    def _own_sites(self) -> Filter:
        # What is damaged may have no site.
        return {"$in": [0, *self.sites(), None]}

    def _may_end(self) -> Filter:
        """Return the condition that a document may be removed. One that is damaged may."""
        states = [each.value for each in TOMBSTONES]
        # Marked by a call of `end_many` that could not go on, so that nobody was told.
        is_left = {"$lt": _mark(clock.now() - _MARK_AGE), "$nin": list(self._ended)}
        unfinished = [{"state": {"$nin": states}}, {"ended_by": is_left}]
        return {"$or": unfinished, "site": self._own_sites()}

    def _live(self, user_id: str | None) -> Filter:
        """Return the condition of the sessions of one user, or of all."""
        of_user = {} if user_id is None else {"user_id": user_id}
        return {**of_user, "state": State.LIVE.value, "site": {"$in": [0, *self.sites()]}}

    def _find(self, wanted: Filter, fields: dict[str, Any], limit: int, **options: Any) -> Call:
        # All at once, as a negative limit says, and not only the first hundred.
        return self._call("find", wanted, fields, limit=-limit, batch_size=limit, **options)

    def _entries(self, wanted: Filter, limit: int, **options: Any) -> Flow[list[Record]]:
        """Return the first records, without payloads."""
        return _entries_in((yield self._find(wanted, LIST_FIELDS, limit, **options)))


def _entries_in(documents: Iterable[Document]) -> list[Record]:
    """Return the records of those documents that are sessions, however damaged."""
    records = []
    for each in documents:
        with suppress(UnreadablePayload):
            records.append(entry_of(each))
    return records


def _mark(moment: int) -> bytes:
    """Return a mark that is unique, and greater than those of earlier moments."""
    return moment.to_bytes(8, "big") + secrets.token_bytes(8)


@contextmanager
def _after_a_write() -> Generator[None]:
    """Let no error in this context say that nothing was sent: another command was, before."""
    try:
        yield
    except StorageUnavailable as error:
        error.was_sent = True
        raise


def _unchanged(base: Record, now: int) -> Filter:
    """Return the condition that the store still has the version that was read."""
    return {"_id": key_of(base.id), "version": base.version, "expires": {"$gt": moment(now)}}


def _is_rotated(server: Server, base: Record, tombstone: Record) -> Flow[bool]:
    """Return whether a rotation that raised was carried out, and the majority knows it.

    Raises `Unconfirmed` if that is not certain. Both records stay then. A read would also find what
    the next primary does not have. A write that changes nothing waits for the majority.
    """
    found = {"_id": key_of(base.id), "payload": tombstone.payload}
    unchanged = {"$set": {"payload": tombstone.payload}}
    limit = {"seconds": server.at_most(_CONFIRM_SECONDS)}
    try:
        written = yield Call(server, "ask", ("update_one", found, unchanged), limit)
    except StorageUnavailable as error:
        unconfirmed = Unconfirmed(str(error))
        unconfirmed.was_logged = error.was_logged
        raise unconfirmed from error
    return bool(written.matched_count)


def _is_same(current: Record | None, record: Record) -> bool:
    """Return whether the store has what a write would store, so that it was carried out before.

    No two payloads are encrypted to the same bytes, but two tombstones may be equal.
    """
    return (
        current is not None
        and current.state is record.state is State.LIVE
        and (current.id, current.version, current.payload)
        == (record.id, record.version, record.payload)
    )

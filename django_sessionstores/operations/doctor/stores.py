"""The stores of a site and their nodes, each asked by itself and all at the same time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any, Final

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from msgspec.structs import replace

from ...core.phrases import Phrase, translate, translated_message
from ...core.records import draw_key, session_id
from ...exceptions import PayloadTooLarge, StorageFull, StorageUnavailable
from ...migration.lazy import sources
from ...migration.sources import OwnSource, Source
from ...storages.base import CacheStorage, Storage
from ...storages.layered import LayeredStorage
from ..checks.configuration import parts
from .probe import ERRORS, probe, probe_copies
from .tasks import Tasks

SECONDS: Final = 20.0
"""How long a store has to answer. The timeouts of its client are shorter, unless it has none."""
_MARGIN: Final = 1.0
"""How much earlier the nodes are given up, so that those that have answered are reported."""


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A store of sessions, or one node of it: whether it answers, and whether it can be written."""

    description: str
    node: str = ""
    """The name of the node; empty if the store is one server."""
    milliseconds: float | None
    """The time to answer over an open connection; ``None`` if the store does not answer."""
    error: str = ""
    """Why the store does not answer; empty if it does."""
    write_obstacle: str = ""
    """What keeps this process from writing to the store; empty if nothing is known to."""
    is_full: bool = False
    """Whether the store cannot be written because it has no room."""
    size_obstacle: str = ""
    """Why the store does not keep a session of `probe.LARGE` bytes; empty if it does."""
    missing_indexes: tuple[str, ...] = ()
    """The names of the indexes that the store does not have, and that ``migrate`` makes."""
    has_other_content: bool = False
    """Whether something that is not a session is where only sessions should be."""
    members: int = 0
    """The number of members of its replica set that its client knows; 0 if it is none."""
    members_not_ready: tuple[str, ...] = ()
    """The names of those that do not answer, or that do not have the data yet."""
    is_probed: bool = False
    """Whether a session could be stored, read, changed and ended."""
    belongs_to_another: bool = False
    """Whether nothing was stored because the files of the store belong to another user."""
    has_copies: bool = False
    """Whether requests can do without the store, which has copies of sessions."""
    has_cache: bool = False
    """Whether a cache has copies of its sessions, which requests read first."""
    is_previous: bool = False
    """Whether it is that of a previous backend, from which sessions are migrated."""

    @property
    def name(self) -> str:
        """The description of the store, with its node if it has nodes."""
        if not self.node:
            return self.description
        words = Phrase(
            gettext_noop("node %(node)s of %(store)s"), node=self.node, store=self.description
        )
        return translate(words)


def ask_stores(storage: Storage, *, writes: bool = False) -> list[Store]:
    """Return the stores of a storage, and each of their nodes.

    With ``writes``, a session is stored, read, changed and ended on each of them. Nothing is
    written otherwise. It takes as long as the slowest node, and `SECONDS` at most.
    """
    with Tasks(SECONDS) as tasks:
        return ask_parts(tasks, storage, writes=writes)


def ask_parts(
    tasks: Tasks, storage: Storage, *, writes: bool, removes: bool = False
) -> list[Store]:
    """Return what `ask_stores` returns. ``removes``: a session that does not exist is removed."""
    # Those in one database have one connection, so one is asked after the other.
    cached = [*_cached_parts(storage)]
    groups = defaultdict[Any, list[Storage]](list)
    for part in parts(storage):
        if not part.holds_in_key:
            groups[part.database() or id(part)].append(part)
    begun = []
    for group in groups.values():
        asked = [
            _Questions(tasks, each, writes=writes, removes=removes, has_cache=each in cached)
            for each in group
        ]
        database = group[0].database()
        begun.append((asked, tasks.start(partial(_ask, asked), database=database)))
    found: list[Store] = []
    for asked, future in begun:
        stores = tasks.result(future)
        found += stores or [each.without_answer() for each in asked]
    return found


def _cached_parts(storage: Storage) -> Iterator[Storage]:
    """Yield the parts of a storage that are behind a cache."""
    if isinstance(storage, LayeredStorage):
        yield from parts(storage.authority)
        return
    for each in storage.parts():
        yield from _cached_parts(each)


def ask_previous_backends(tasks: Tasks) -> list[Store]:
    """Return the stores of the backends in ``MIGRATE_FROM``, and each of their nodes.

    Nothing is written. But a session that does not exist is removed, because a migration and a
    logout remove the session that they have found.
    """
    try:
        asked = [each for each in sources() if not each.in_key]
    except ImproperlyConfigured:
        return []  # Which is also a finding.
    found: list[Store] = []
    for source in asked:
        # One after the other, because two may be in one database.
        if isinstance(source, OwnSource):
            stores = ask_parts(tasks, source.storage, writes=False, removes=True)
            found += [replace(each, is_previous=True) for each in stores]
            continue
        of_nodes = tasks.result(tasks.start(partial(_ask_django, source)))
        found += of_nodes or [_previous(source, error=translate(_no_answer(tasks)))]
    return found


def _ask_django(source: Source) -> list[Store]:
    return [_ask_node_of_django(source, *each) for each in sorted(source.nodes().items())]


def _ask_node_of_django(source: Source, node: str, unused: str) -> Store:
    try:
        milliseconds = _measure(lambda: source.find(unused))
    except StorageUnavailable as error:
        return _previous(source, node=node, error=translated_message(error))
    obstacle = ""
    try:
        source.try_to_remove(unused)
    except StorageUnavailable as error:
        obstacle = translated_message(error)
    return _previous(source, node=node, milliseconds=milliseconds, write_obstacle=obstacle)


def _previous(source: Source, **found: Any) -> Store:
    facts = {"milliseconds": None, "is_previous": True, **found}
    return Store(description=translate(source.describe()), **facts)


def _measure(look: Callable[[], object]) -> float:
    """Return how many milliseconds a store takes to answer over an open connection."""
    look()  # Opens the connection.
    started = time.perf_counter()
    look()
    return round((time.perf_counter() - started) * 1000, 3)


def _no_answer(tasks: Tasks) -> Phrase:
    """Return what is wrong with a store for which the client waits without a limit."""
    return Phrase(
        gettext_noop(
            "It has not answered within %(number)s seconds, and the client was still waiting, "
            "as requests do. Give the client a timeout in CACHES or DATABASES, or let it try less "
            "often."
        ),
        number=f"{tasks.seconds:g}",
    )


def _ask(questions: Sequence[_Questions]) -> list[Store]:
    return list(chain.from_iterable(each.ask() for each in questions))


class _Questions:
    """What is asked of one storage that uses a store."""

    def __init__(
        self, tasks: Tasks, storage: Storage, *, writes: bool, removes: bool, has_cache: bool
    ) -> None:
        self._tasks = tasks
        self._storage = storage
        # Nobody else sees what is in the memory of this process.
        self._writes = writes and storage.shared
        self._removes = removes and storage.shared
        self._has_copies = isinstance(storage, CacheStorage) and storage.holds_copies
        self._has_cache = has_cache
        self._description = translate(storage.describe())

    def ask(self) -> list[Store]:
        """Ask each node of the store."""
        try:
            nodes = self._storage.nodes()
        except StorageUnavailable as error:
            return [self._store(error=self._reason(error))]
        if not nodes:
            stores = [self._ask_node("", session_id(draw_key()), only_reads=True)]
            stores[0] = replace(stores[0], belongs_to_another=self._writes)
        elif len(nodes) == 1:
            stores = [self._ask_node(*each) for each in nodes.items()]
        else:
            stores = self._ask_all(nodes)
        if not any(each.error for each in stores) and (obstacle := self._storage.write_obstacle()):
            # It has the cure, and more than the first thing that was refused.
            stores[0] = replace(stores[0], write_obstacle=obstacle)
        if not any(each.error for each in stores):
            members = self._storage.members()
            stores[0] = replace(
                stores[0],
                missing_indexes=self._missing_indexes(),
                has_other_content=self._has_other_content(),
                members=members.number if members else 0,
                members_not_ready=tuple(members.not_ready) if members else (),
            )
        return stores

    def _missing_indexes(self) -> tuple[str, ...]:
        try:
            return tuple(self._storage.missing_indexes())
        except StorageUnavailable:
            return ()  # Its user may not list them, and `migrate` says so.

    def _has_other_content(self) -> bool:
        try:
            return self._storage.has_other_content()
        except StorageUnavailable:
            return False  # The store answered before, so the next run of the doctor tells.

    def _ask_all(self, nodes: Mapping[str, str]) -> list[Store]:
        begun: dict[str, Future[Store]] = {
            node: self._tasks.start(partial(self._ask_node, node, unused))
            for node, unused in nodes.items()
        }
        return [
            self._tasks.result(future, margin=_MARGIN) or self.without_answer(node)
            for node, future in sorted(begun.items())
        ]

    def without_answer(self, node: str = "") -> Store:
        """Return the store, or the node, that has not answered in time."""
        return self._store(node=node, error=translate(_no_answer(self._tasks)))

    def _ask_node(self, node: str, unused: str, *, only_reads: bool = False) -> Store:
        try:
            milliseconds = _measure(lambda: self._storage.lookup(unused))
        except StorageUnavailable as error:
            return self._store(node=node, error=self._reason(error))
        found: dict[str, Any] = {}
        if self._writes and not only_reads:
            found = self._probe(unused)
        elif self._removes and not only_reads:
            found = self._remove(unused)
        return self._store(node=node, milliseconds=milliseconds, **found)

    def _remove(self, unused: str) -> dict[str, Any]:
        """Remove the session with an unused id, and return what `Store` then has to say of it."""
        try:
            self._storage.delete(unused)
        except ERRORS as error:
            return {"write_obstacle": self._reason(error)}
        return {}

    def _probe(self, unused: str) -> dict[str, Any]:
        """Store a session under an unused id, and return what `Store` then has to say of it."""
        try:
            if self._has_copies and isinstance(self._storage, CacheStorage):
                probe_copies(self._storage, unused)
            else:
                probe(self._storage, unused)
        except PayloadTooLarge as error:
            return {"is_probed": True, "size_obstacle": str(error)}
        except ERRORS as error:
            return {
                "write_obstacle": self._reason(error),
                "is_full": isinstance(error, StorageFull),
            }
        return {"is_probed": True}

    def _store(self, **found: Any) -> Store:
        facts = {"milliseconds": None, **found}
        return Store(
            description=self._description,
            has_copies=self._has_copies,
            has_cache=self._has_cache,
            **facts,
        )

    def _reason(self, error: Exception) -> str:
        # Many messages begin with the store, which is named already. The further lines of a
        # database's own have values of the row.
        text = translated_message(error).removeprefix(f"{self._description}: ")
        return text.partition("\n")[0]

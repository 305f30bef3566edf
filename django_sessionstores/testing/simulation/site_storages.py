"""The storages of the simulated site, as its config asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from django.utils.module_loading import import_string

from .cache_outages import LEASE, RETRY
from .configuration import WEEKS, Config
from .database import SimulatedDatabase
from .internals import CookieStorage, LayeredStorage, MemoryStorage, RegisteredStorage, Storage
from .scheduler import Scheduler
from .stores import Scheduled, SimulatedCache, WorkersStorage

_WINDOW = 10 * WEEKS
"""The window of registries, in seconds: longer than any program takes."""


def stores_of(config: Config) -> Collection[str]:
    """Return the names of the stores that a site has."""
    return SiteStorages(config, Scheduler()).leaves.keys()


class SiteStorages:
    """The storage that a site uses, the one of its previous backend, and their stores."""

    def __init__(self, config: Config, scheduler: Scheduler) -> None:
        self._config = config
        self._scheduler = scheduler
        self.database = SimulatedDatabase(scheduler)
        self.leaves: dict[str, Scheduled] = {}
        """The stores of the site by name, each with a point of the scheduler before every call."""
        self.previous: Storage = self._make_previous()
        self._workers: list[LayeredStorage] = []
        self.slots: list[int] = []
        """The server of each process of ``+workers``, 0 or 1. The last process of a server serves
        the next requests."""
        self.current: Storage = self._make_current()

    def _make_current(self) -> Storage:
        match self._config.engine:
            case "memory":
                return self._leaf("memory", MemoryStorage(10_000))
            case "db":
                return self._leaf("database", self.database)
            case "cache":
                return self._leaf("cache", SimulatedCache(lists=True))
            case "cached_db":
                cache = self._leaf("cache", SimulatedCache())
                cache.holds_copies = True
                database = self._leaf("database", self.database)
                has_two = "workers" in self._config.options
                for _ in range(2 if has_two else 1):
                    self._workers.append(LayeredStorage(cache, database, lease=LEASE, retry=RETRY))
                if not has_two:
                    return self._workers[0]
                self.slots = [0, 1]
                return cast("Storage", WorkersStorage(self._of_worker))
            case "cache_registry":
                cache = self._leaf("cache", SimulatedCache())
                return RegisteredStorage(
                    cache, self._leaf("registry", self.database), window=_WINDOW
                )
            case "cookie_registry":
                registry = self._leaf("registry", self.database)
                return RegisteredStorage(CookieStorage(), registry, window=_WINDOW)
        if "." not in self._config.engine:
            raise ValueError(f"There is no engine {self._config.engine!r}.")
        leaf = self._leaf("storage", import_string(self._config.engine)())
        if not self._config.is_registered:
            return leaf
        return RegisteredStorage(leaf, self._leaf("registry", self.database), window=_WINDOW)

    def _make_previous(self) -> Storage:
        if "cookie" in self._config.options:
            return CookieStorage()
        if "memory" not in self._config.options:
            return MemoryStorage(1)  # The site has no previous backend.
        return self._leaf("previous", MemoryStorage(10_000))

    def _leaf(self, name: str, inner: Storage) -> Scheduled:
        leaf = Scheduled(inner, name, self._scheduler, two_steps="2step" in self._config.options)
        self.leaves[name] = leaf
        return leaf

    def _of_worker(self) -> Storage:
        """Return the storage of the process that serves the running request."""
        actor = self._scheduler.current
        return self._workers[actor.worker if actor else self.process_of(0)]

    def process_of(self, slot: int) -> int:
        """Return the process that serves the next request on a server."""
        return max(self.processes_of(slot), default=0)

    def processes_of(self, slot: int) -> set[int]:
        """Return the processes that serve requests on a server, or have served them."""
        return {number for number, each in enumerate(self.slots) if each == slot}

    @property
    def processes(self) -> range:
        """Return all processes; those that are not told apart are one."""
        return range(len(self.slots) or 1)

    def begin_process(self, slot: int, now: int) -> None:
        """Let a new process serve the next requests on a server."""
        cache, database = self.leaves["cache"], self.leaves["database"]
        self._workers.append(
            LayeredStorage(cache, database, lease=LEASE, retry=RETRY, process_began=lambda: now)
        )
        self.slots.append(slot)

    def stateful(self) -> Iterator[object]:
        """Return the objects whose attributes hold the sessions and what is known of the stores."""
        if not self._workers:
            yield self.current
        for worker in self._workers:
            yield from (worker, worker._trust)
        for each in self.leaves.values():
            yield each.inner

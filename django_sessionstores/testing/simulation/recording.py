"""Reporting the saves of the simulated site's backends to the running world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .internals import Storage
from .site_storages import SiteStorages


class Recorder(Protocol):
    """The part of a world that the backends use."""

    storages: SiteStorages

    def saved(self, session: Any) -> None:
        """Note that a save has succeeded."""

    def save_failed(self, session: Any, error: BaseException) -> None:
        """Note that a save has raised an error."""


_running: list[Recorder] = []


def run_in(world: Recorder | None) -> None:
    """Make a world the running one; None if there is none."""
    _running[:] = [] if world is None else [world]


def storage_in_use() -> Storage:
    """Return the storage of the running world."""
    return _running[0].storages.current


def previous_storage() -> Storage:
    """Return the previous storage of the running world, from which it migrates."""
    return _running[0].storages.previous


class Recording:
    """A ``SessionStore`` that reports its saves to the running world."""

    def save(self, must_create: bool = False) -> None:
        """See ``SessionStore.save``."""
        with self._reported():
            super().save(must_create)  # type: ignore[misc]

    async def asave(self, must_create: bool = False) -> None:
        """See ``SessionStore.asave``."""
        with self._reported():
            await super().asave(must_create)  # type: ignore[misc]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Report whether the save in this context succeeds."""
        try:
            yield
        except BaseException as error:
            _running[0].save_failed(self, error)
            raise
        _running[0].saved(self)

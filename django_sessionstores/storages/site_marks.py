"""The marks by which the sites that share a store tell their records apart, see `Record.site`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from .. import conf
from ..core.records import Record

LITTER_AGE: Final = 7 * 24 * 60 * 60 * 1000
"""How many milliseconds after its expiry a record may be removed by any site. The site that has
stored it may no longer exist, and no clock is so far ahead."""


class SiteMarks:
    """The base class of `Storage` that knows which records belong to this site."""

    marked_by: SiteMarks | None = None
    """The storage whose marks the records have, if this one is a part of a composed storage."""
    _namespace_of_data: Callable[[], str] | None = None
    """The `namespace` of the storage whose sessions this one lists, if it is a registry."""

    def sites(self) -> tuple[int, ...]:
        """Return the marks of the records that belong to this site, see `Record.site`.

        The first one is for new records. ``scan``, ``count`` and ``delete`` leave alone what
        another site has in the same store, and so does ``purge`` until `LITTER_AGE` after it has
        expired.
        """
        if self.marked_by is not None:
            return self.marked_by.sites()
        namespace = self._namespace_of_data
        return conf.sites(self._tenant(), "" if namespace is None else namespace())

    def _tenant(self) -> str:
        return conf.tenant()

    def mark_by(self, namespace_of_data: Callable[[], str]) -> None:
        """Mark records also by the `namespace` of the storage whose registry this one is."""
        self._namespace_of_data = namespace_of_data

    def with_mark(self, mark: int) -> Self:
        """Return a storage of the same store, whose own records are those with one mark.

        Only for a storage without parts.
        """
        storage = copy.copy(self)
        storage.marked_by = _OneMark(mark)
        return storage

    def namespace(self) -> str:
        """Return what the store puts in front of the keys of this tenant or site, if anything.

        Sessions with different namespaces are apart without a mark.
        """
        return ""

    def is_own(self, record: Record) -> bool:
        """Return whether a record belongs to this site."""
        return record.site in (0, *self.sites())

    def own(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that belong to this site."""
        sites = (0, *self.sites())
        return (record for record in records if record.site in sites)

    def may_purge(self, record: Record, now: int) -> bool:
        """Return whether ``purge`` may remove a record, which may have expired, at ``now``."""
        return self.purge_rule(now)(record)

    def purge_rule(self, now: int) -> Callable[[Record], bool]:
        """Return a function that returns what `may_purge` does, to ask it of many records."""
        sites = (0, *self.sites())
        return lambda record: record.expires <= (now if record.site in sites else now - LITTER_AGE)


class _OneMark(SiteMarks):
    """The marks of what is neither this site's nor another one's."""

    def __init__(self, mark: int) -> None:
        self._mark = mark

    def sites(self) -> tuple[int, ...]:
        return (self._mark,)

"""Tests of a storage: records of another site in the same store."""
# ruff: noqa: S101

from __future__ import annotations

from unittest import SkipTest

from ....core.clock import now
from ....core.records import Record
from ....storages.base import LITTER_AGE, Updated
from ..values import DAY, successor
from .case import StorageCase

_OTHER_SITE = 77


class IsolationTests(StorageCase):
    """`Record.site`, by which sites that share a store tell their records apart."""

    def test_the_site_is_stored(self) -> None:
        """A record is read back with its site, also after an update that changes the site.

        It changes when a site gets a new secret.
        """
        record = self.create_record(site=_OTHER_SITE)
        assert record.site == _OTHER_SITE
        own, *_ = self.storage.sites()
        assert self.update_record(record, site=own).site == own
        assert self.store.read(record.id).site == own

    def test_another_site_is_not_listed(self) -> None:
        """Scanning and counting leave out the records of another site.

        Its users may have the same primary keys.
        """
        mine, theirs = self._create_pair()
        for user_id in (None, "7"):
            assert [each.id for each in self.scan_all(user_id)] == [mine.id]
            assert self.store.count(now(), user_id) == 1
        self.update_record(theirs, site=self.storage.sites()[0])
        assert {each.id for each in self.scan_all("7")} == {mine.id, theirs.id}
        assert self.store.count(now(), None) == 2

    def test_another_site_is_not_in_the_rebuilt_index(self) -> None:
        """Rebuilding the index leaves out the records of another site."""
        mine, _ = self._create_pair()
        assert self.store.reindex() in {None, 1}
        assert [each.id for each in self.scan_all()] == [mine.id]

    def test_another_site_is_not_deleted(self) -> None:
        """Deleting a record of another site does nothing and says so.

        A browser may send the cookie of one site to another site on the same host.
        """
        mine, theirs = self._create_pair()
        assert self.store.delete(theirs.id) is False
        assert self.store.read(theirs.id) is not None
        assert set(self.store.end_many([theirs.id, mine.id])) == {mine.id}
        assert self.store.read(theirs.id) is not None

    def test_another_site_is_not_purged(self) -> None:
        """A purge leaves expired records of another site alone, until they are litter."""
        mine, theirs = self._create_pair()
        moment = now() + 2 * DAY
        if self.storage.self_expiring or not self.store.purge(moment, 10):
            raise SkipTest("The store removes expired records by itself.")
        assert self.store.read_latest(mine.id) is None
        assert isinstance(self.store.update(successor(theirs), theirs, now()), Updated)
        self.store.purge(moment + LITTER_AGE, 10)
        assert self.store.read_latest(theirs.id) is None

    def _create_pair(self) -> tuple[Record, Record]:
        """Create a record of this site and one of another site, of users with the same id."""
        return self.create_record(), self.create_record(site=_OTHER_SITE)

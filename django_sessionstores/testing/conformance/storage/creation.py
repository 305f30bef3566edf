"""Tests of a storage: reading and creating records."""
# ruff: noqa: S101

from __future__ import annotations

import os
from functools import partial

from ....core.clock import now
from ....core.records import draw_key, session_id
from ....storages.base import Taken, Updated
from ..execution import in_threads
from ..values import without_handle
from .case import StorageCase


class CreationTests(StorageCase):
    """`Storage.read` and `Storage.create`."""

    def test_an_absent_record_reads_as_none(self) -> None:
        """Reading an absent record returns None.

        A miss must not raise: an error means an outage.
        """
        assert self.store.read(session_id(draw_key())) is None

    def test_every_field_comes_back_as_it_was(self) -> None:
        """A record is read back with every field unchanged.

        Times keep their milliseconds, payloads may hold every byte, and text may go beyond ASCII.
        """
        record = self.new_record()
        self.store.create(record, now())
        assert without_handle(self.store.read(record.id)) == record

    def test_an_anonymous_record_has_no_user(self) -> None:
        """A user id of None is read back as None. The texts "None" and "" would name a user."""
        assert self.create_record(user_id=None).user_id is None

    def test_a_payload_of_64_kb_comes_back(self) -> None:
        """A payload of 64 KB is read back whole. Column and packet sizes must not cut it."""
        payload = os.urandom(65_536)
        assert self.create_record(payload=payload).payload == payload

    def test_create_gives_back_what_it_stored(self) -> None:
        """The outcome of create() carries the stored record.

        The next save of the same session object starts from it, without a read.
        """
        record = self.new_record()
        outcome = self.store.create(record, now())
        assert without_handle(outcome.record) == record
        self.update_record(outcome.record)

    def test_create_never_overwrites(self) -> None:
        """Creating a record under an id in use returns Taken and changes nothing.

        Two sessions with the same id would show the data of one visitor to another.
        """
        held = self.create_record()
        intruder = self.new_record(id=held.id, payload=b"other", user_id="8")
        assert isinstance(self.store.create(intruder, now()), Taken)
        assert without_handle(self.store.read(held.id)) == without_handle(held)

    def test_what_reads_as_absent_can_be_created(self) -> None:
        """An id that the store reports as absent can be used for a new record.

        A store may hide expired records before it purges them. If it refused their ids as well, a
        caller that waits for such an id to be free would wait forever.
        """
        base = self.create_record()
        self.update_record(base, expires=1)
        if self.store.lookup(base.id) is None:
            self.store.create(self.new_record(id=base.id, payload=b"new"), now())
            assert self.store.read(base.id).payload == b"new"

    def test_of_simultaneous_creates_one_succeeds(self) -> None:
        """If several threads create the same id, exactly one succeeds.

        Creating must be atomic: a separate check before the write would let two through.
        """
        for _ in range(5):
            record_id = session_id(draw_key())
            records = [self.new_record(id=record_id, payload=bytes([n])) for n in range(4)]
            outcomes = in_threads([partial(self.try_write, record) for record in records])
            (winner,) = [o.record for o in outcomes if isinstance(o, Updated)]
            assert self.store.read(record_id).payload == winner.payload

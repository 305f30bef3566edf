"""Tests of an engine: the data of a session."""
# ruff: noqa: S101

from __future__ import annotations

import datetime
import decimal
import os
import uuid
from unittest import SkipTest

from django.conf import settings as django_settings

from ....core.clock import now
from ....exceptions import PayloadTooLarge, UnreadablePayload, UnserializableValue
from ....storages.base import Updated
from ..failures import raises
from ..observation import suspicious_messages
from ..values import successor
from .case import EngineCase


class DataTests(EngineCase):
    """The values that a session keeps, and payloads that cannot be read."""

    def create_damaged_session(self, payload: bytes = b"no payload of ours") -> str:
        """Save a session, replace its payload by other bytes, and return its key."""
        key = self.create_session()
        base = self.record(key)
        outcome = self.storage.update(successor(base, payload=payload), base, now())
        assert isinstance(outcome, Updated)
        return outcome.key or key

    def test_types_survive(self) -> None:
        """Values are read back with the types that they were stored with.

        Every engine must keep the same types, so that changing the engine does not change a
        program.
        """
        if django_settings.is_overridden("SESSION_SERIALIZER"):  # type: ignore[misc]
            raise SkipTest("SESSION_SERIALIZER is set and decides which types are kept.")
        zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
        data = {
            "datetime": datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=zone),
            "date": datetime.date(2026, 2, 3),
            "time": datetime.time(4, 5, 6, 789),
            "timedelta": datetime.timedelta(days=-1, microseconds=5),
            "decimal": decimal.Decimal("1.10"),
            "uuid": uuid.UUID(int=7),
            "bytes": bytes(range(256)),
            "set": {1, 2},
            "int keys": {1: "one", -2: "two"},
            "large": [2**63, -(2**70), 0.1, True, None],
            "text": ["", "ünïcödé 😀", "\x00"],
        }
        loaded = self.data(self.create_session(**data))
        assert loaded == data
        assert {name: type(value) for name, value in loaded.items()} == {
            name: type(value) for name, value in data.items()
        }
        assert str(loaded["decimal"]) == "1.10"
        assert loaded["datetime"].utcoffset() == zone.utcoffset(None)

    def test_100_kb_survive(self) -> None:
        """A session of 100 KB is read back whole, or refused when it is saved.

        Column and packet sizes must not cut it.
        """
        data = {"blob": os.urandom(50_000).hex()}
        try:
            key = self.create_session(**data)
        except PayloadTooLarge as reason:
            raise SkipTest(f"The storage refuses 100 KB: {reason}") from None
        assert self.data(key) == data

    def test_names_of_fields_are_harmless_as_keys(self) -> None:
        """Session keys that are named like fields of a record do not change the record.

        A visitor who can choose the name of a key must not reach the metadata.
        """
        names = ("id", "version", "expires", "payload", "user_id", "state", "__class__", "", "\x00")
        key = self.create_session(**dict.fromkeys(names, "x"))
        assert self.data(key) == dict.fromkeys(names, "x")
        assert self.record(key).user_id is None

    def test_an_unserializable_value_names_its_key_and_leaves_the_session_whole(self) -> None:
        """An unserializable value raises an error that names its key, and saves nothing.

        The stored session must be neither half overwritten nor deleted.
        """
        key = self.create_session(color="blue")
        session = self.session(key)
        session.set("color", "red")
        session.set("culprit", {"deep": [object()]})
        with raises(UnserializableValue) as caught:
            session.save()
        assert "'culprit'" in str(caught)
        assert self.data(key) == {"color": "blue"}

    def test_a_damaged_payload_reads_as_empty_and_is_logged_once(self) -> None:
        """A damaged payload reads as an empty session and is logged once.

        An error would recur for as long as the cookie lives, and silence would hide the damage.
        """
        key = self.create_damaged_session()
        session = self.session(key)
        with suspicious_messages() as messages:
            assert session.get("color") is None
            assert session.get("color") is None
        assert len(messages) == 1
        assert str(self.storage.identify(key)) in messages[0]
        assert key not in messages[0]

    def test_a_damaged_payload_is_not_overwritten(self) -> None:
        """A save over a damaged payload goes to another session and keeps the payload.

        The payload may come from a worker with a newer SECRET_KEY.
        """
        key = self.create_damaged_session()
        session = self.session(key)
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(session.session_key) == {"x": 1}
        try:
            held = self.record(key).payload
        except UnreadablePayload:
            return
        assert held == b"no payload of ours"

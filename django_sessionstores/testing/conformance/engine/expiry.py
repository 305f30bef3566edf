"""Tests of an engine: lifetimes, touching and expiry."""
# ruff: noqa: S101

from __future__ import annotations

import datetime
from contextlib import suppress
from unittest import SkipTest

from django.conf import settings as django_settings

from ....core.clock import now
from ....exceptions import SessionEnded
from ..failures import raises
from ..observation import observed
from ..values import DAY, at
from .case import EngineCase


class ExpiryTests(EngineCase):
    """The lifetime of a session, and the saves that extend it."""

    def test_an_expired_session_reads_as_empty(self) -> None:
        """An expired session reads as empty, whether or not the store has removed it."""
        key = self.create_session()
        with at(self.record(key).expires):
            assert self.data(key) == {}
            assert not self.session().exists(key)

    def test_a_session_is_there_until_it_expires(self) -> None:
        """A session can be read until the millisecond before it expires."""
        key = self.create_session()
        with at(self.record(key).expires - 1):
            assert self.data(key) == {"color": "blue"}

    def test_a_save_moves_the_expiry(self) -> None:
        """Saving an unchanged session moves its expiry and keeps its payload.

        A session in use must not expire.
        """
        key = self.create_session()
        before = self.record(key)
        with at(now() + DAY):
            session = self.session(key)
            session.load()
            session.save()
        after = self.record(session.session_key)
        assert after.expires - before.expires >= DAY
        assert after.payload == before.payload

    def test_saves_within_the_touch_interval_make_no_write(self) -> None:
        """Saving an unchanged session within the touch interval writes nothing.

        With SESSION_SAVE_EVERY_REQUEST every request saves, and most requests need not write. That
        the session still lives under its key takes one read.
        """
        session = self.session(self.create_session(_auth_user_id="1"))
        session.get("color")
        with observed(self.storage) as calls:
            for _ in range(3):
                session.save()
        assert set(calls) <= {"read", "read_latest"}
        assert len(calls) <= 3

    def test_a_touch_does_not_revive_a_deleted_session(self) -> None:
        """A request that only reads does not bring back a session deleted in the meantime."""
        self.skip_unless_authoritative()
        key = self.create_session()
        session = self.session(key)
        session.get("color")
        self.session().delete(key)
        with at(now() + DAY), suppress(SessionEnded):
            session.save()
        assert self.data(key) == {}

    def test_a_save_does_not_revive_an_expired_session(self) -> None:
        """Saving a session that has expired since it was loaded raises SessionEnded."""
        self.skip_unless_authoritative()
        key = self.create_session()
        expires = self.record(key).expires
        session = self.session(key)
        session.set("x", 1)
        with at(expires + 1):
            with raises(SessionEnded):
                session.save()
            assert self.data(key) == {}

    def test_lifetimes_of_a_second_to_400_days_hold(self) -> None:
        """Lifetimes from one second to 400 days are kept.

        Some stores take more than 30 days of seconds for a date in 1970.
        """
        for days in (1 / 86_400, 31, 60, 400):
            session = self.session()
            session.set("x", 1)
            session.set_expiry(datetime.timedelta(days=days))
            moment = now()
            session.save()
            age = round(days * DAY)
            assert abs(self.record(session.session_key).expires - moment - age) < 30_000
            with at(moment + age - 500):
                assert self.data(session.session_key)["x"] == 1, days

    def test_a_negative_lifetime_ends_the_session(self) -> None:
        """A negative lifetime ends the session.

        A store that takes it for "never expires" would keep the session forever.
        """
        key = self.create_session()
        session = self.session(key)
        session.set_expiry(-1)
        session.save()
        assert self.data(session.session_key) == {}

    def test_a_browser_length_session_expires_in_the_store(self) -> None:
        """A browser-length session expires in the store within SESSION_COOKIE_AGE.

        Its cookie has no expiry, and no browser reports when it closes.
        """
        session = self.session()
        session.set_expiry(0)
        session.save()
        age = self.record(session.session_key).expires - now()
        assert 0 < age <= django_settings.SESSION_COOKIE_AGE * 1000

    def test_clear_expired_removes_only_what_has_expired(self) -> None:
        """clear_expired() removes only expired sessions and returns their number.

        The number shows when a cleanup job does nothing.
        """
        if self.storage.self_expiring:
            raise SkipTest("The store removes expired records by itself.")
        with at(now() + DAY):
            self.session().clear_expired()  # What other tests have left would be counted.
        short, long = self.session(), self.session()
        for session, age in ((short, 3600), (long, 864_000)):
            session.set_expiry(age)
            session.save()
        with at(now() + DAY):
            assert self.session().clear_expired() == 1
            assert self.session().clear_expired() == 0
            assert self.data(short.session_key) == {}
        assert self.data(long.session_key) == {"_session_expiry": 864_000}

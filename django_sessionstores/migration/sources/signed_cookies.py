"""Django's backend ``signed_cookies``."""

from __future__ import annotations

from django.core import signing
from django.utils.translation import gettext_noop

from ...core import lifetime
from ...core.phrases import Phrase
from .base import PreviousSession
from .django_backend import DJANGO_BACKENDS, DjangoSource


class SignedCookieSource(DjangoSource):
    """Django's ``signed_cookies``: anyone who has a cookie has the session until it expires."""

    in_key = True
    lists = False

    def describe(self) -> str:
        return Phrase(gettext_noop("the browsers' cookies, signed by Django's engine"))

    def find(self, key: str) -> PreviousSession | None:
        if key.count(":") < 2:
            return None  # Not signed by Django.
        data = self._read_signed(key, f"{DJANGO_BACKENDS}.signed_cookies", self._age)
        if not data:
            return None
        signed = signing.b62_decode(key.rsplit(":", 2)[1]) * 1000
        until = lifetime.expires_at(data.get("_session_expiry"), signed, self._age)
        return self._session(data, signed, min(until, signed + self._age * 1000), None)

    async def afind(self, key: str) -> PreviousSession | None:
        return self.find(key)

    def remove(self, key: str) -> None:
        pass

    async def aremove(self, key: str) -> None:
        pass

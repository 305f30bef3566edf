"""Django's backends ``db`` and ``cached_db``."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.utils.translation import gettext_noop

from ...core import lifetime
from ...core.phrases import Phrase
from ...core.records import SecretText, session_id
from ...exceptions import StorageUnavailable
from .base import Claim, Entry, PreviousSession
from .cache import cache_alias
from .django_backend import DjangoSource, session_or_error, translate_errors


class MissingApp(ImproperlyConfigured):
    """The app with the table of a previous backend is not installed."""


class DatabaseSource(DjangoSource):
    """Django's ``db``, and backends built on it with a model of their own."""

    @property
    def _rows(self) -> Any:
        try:
            model = self._store.get_model_class()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise MissingApp(
                "Its table belongs to an app that INSTALLED_APPS does not have, such as "
                f"'django.contrib.sessions': {error}"
            ) from None
        # Never a replica, which may lag.
        return model._base_manager.using(router.db_for_write(model))

    def describe(self) -> str:
        rows = self._rows
        return Phrase(
            gettext_noop("table %(table)s in database %(database)s"),
            table=rows.model._meta.db_table,
            database=repr(rows.db),
        )

    def find(self, key: str) -> PreviousSession | None:
        with translate_errors(self):
            row = self._rows.filter(session_key=str(key)).first()
        # Some databases compare keys without regard to case.
        return None if row is None or row.session_key != key else self._session_of_row(row)

    def _session_of_row(self, row: Any) -> PreviousSession:
        data = self._decode(row.session_data)
        expires, expiry = lifetime.expires_at(row.expire_date, 0, 0), data.get("_session_expiry")
        saved = None
        if not isinstance(expiry, str | datetime):
            saved = expires - int(expiry or self._age) * 1000
        return self._session(data, saved, expires, row.session_data)

    def remove(self, key: str) -> None:
        with translate_errors(self):
            self._rows.filter(session_key=str(key)).delete()

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        with translate_errors(self):
            rows = list(
                self._rows.filter(session_key__gt=cursor).order_by("session_key")[: limit + 1]
            )
        entries = [
            Entry(SecretText(row.session_key), session_id(row.session_key), found)
            for row in rows[:limit]
            for found in [session_or_error(self._session_of_row, row)]
        ]
        return entries, SecretText(entries[-1].locator) if len(rows) > limit else ""

    def count(self) -> int:
        with translate_errors(self):
            return int(self._rows.count())

    def claim(self, locator: str, found: PreviousSession) -> Claim:
        with translate_errors(self):
            row = self._rows.filter(session_key=str(locator))
            if row.filter(session_data=found.seen).delete()[0]:
                self._forget_copy(locator)
                return Claim.REMOVED
            return Claim.CHANGED if row.exists() else Claim.GONE

    def _forget_copy(self, key: str) -> None:
        """Remove the cache's copy of a row, if there is one."""


class CachedDatabaseSource(DatabaseSource):
    """Django's ``cached_db``, of which only the rows are read."""

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self.alias = cache_alias()

    def remove(self, key: str) -> None:
        super().remove(key)
        self._forget_copy(key)

    def _forget_copy(self, key: str) -> None:
        # Only rows are read here, so a copy that an unreachable cache keeps brings nothing back.
        with suppress(StorageUnavailable), translate_errors(self):
            caches[self.alias].delete(self._store.cache_key_prefix + key)  # type: ignore[attr-defined]

"""The storage of a session engine: one for the whole process, made from settings."""

from __future__ import annotations

from threading import RLock
from typing import Any, ClassVar, Final, Self

from django.contrib.sessions.backends.base import SessionBase
from django.core.signals import setting_changed

from ..conf import NAME, codec, cookie_age, settings, stated_options
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record
from ..exceptions import PartlyEnded, StorageUnavailable
from ..migration.lazy import MigratingStorage
from ..payloads.codec import newest_data
from ..storages.base import Storage
from ..storages.calls import Calls
from ..storages.limited import LimitedStorage

_PURGE_BATCH: Final = 1000


class Engine(SessionBase):
    """A session engine, which makes its storage from settings and keeps it."""

    settings_used: ClassVar[tuple[str, ...]] = (
        "SESSIONSTORES",
        "SESSION_CACHE_ALIAS",
        "SESSION_FILE_PATH",
        "CACHES",
        "DATABASES",
    )
    """The settings that `make_storage` reads, and options of ``SESSIONSTORES`` by their names.

    If one of them changes, as in tests, the storage is closed and made again. Then everything that
    it kept in memory is lost, so an engine should name only the settings that it needs.
    """

    _options_used: ClassVar[dict[type[Engine], dict[str, Any]]] = {}
    """The values of the options when each storage was made."""
    _own_storages: ClassVar[dict[type[Engine], Storage]] = {}
    _storages: ClassVar[dict[type[Engine], Storage]] = {}
    # An engine may ask another one for its storage while it makes its own.
    _storages_lock: ClassVar[RLock] = RLock()

    def get_session_cookie_age(self) -> int:
        """Return ``SESSION_COOKIE_AGE``. Raises ``ImproperlyConfigured`` if it is not a number."""
        # Django declares an integer, and accepts fractions.
        return cookie_age()  # type: ignore[return-value]

    @classmethod
    def make_storage(cls) -> Storage:
        """Return a new storage of this engine, from settings. Called once per process."""
        raise NotImplementedError("an engine must provide make_storage()")

    @classmethod
    def own_storage(cls) -> Storage:
        """Return the storage that keeps the sessions of this engine, the same for each call."""
        storage = Engine._own_storages.get(cls)
        if storage is None:
            with Engine._storages_lock:
                storage = Engine._own_storages.get(cls)
                if storage is None:
                    options = stated_options(cls.settings_used)
                    storage = Engine._own_storages.setdefault(cls, cls.make_storage())
                    Engine._options_used[cls] = options
        return storage

    @classmethod
    def storage(cls) -> Storage:
        """Return the storage of this engine, wrapped for migration and the session limit, if the
        settings ask for them."""
        storage = Engine._storages.get(cls)
        if storage is None:
            storage = own = cls.own_storage()
            if settings.MIGRATE_FROM:
                storage = MigratingStorage(storage)
            if settings.MAX_SESSIONS:
                refuses = settings.ON_LIMIT == "refuse"
                storage = LimitedStorage(storage, own, most=settings.MAX_SESSIONS, refuses=refuses)
            storage = Engine._storages.setdefault(cls, storage)
        return storage

    @classmethod
    def data_of(cls, record: Record) -> dict[str, Any]:
        """Return the data of a record, to show it. Raises `UnreadablePayload`."""
        return codec().deserialize(newest_data(record, cls.storage().codec, codec()))


class Total(int):
    """How many sessions a call has ended, or removed."""

    is_complete: bool
    """Whether these were all of them. If not, the call has stopped at a limit."""

    def __new__(cls, number: int, *, is_complete: bool) -> Self:
        total = super().__new__(cls, number)
        total.is_complete = is_complete
        return total

    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, bool]]:
        return (int(self),), {"is_complete": self.is_complete}


def purge_expired(
    storage: Storage, most: int | None = None, seconds: float | None = None
) -> Flow[Total]:
    """Remove the expired sessions in batches; return how many were removed.

    Stops after the batch in which ``most`` or ``seconds`` is reached. Raises `PartlyEnded` if the
    store stops answering after the first batch, and `StorageUnavailable` if it does not answer at
    all.
    """
    moment, began, total, calls = clock.now(), clock.monotonic(), 0, Calls(storage)
    try:
        while most is None or total < most:
            removed = yield from calls.purge(moment, _PURGE_BATCH)
            if not removed:
                return Total(total, is_complete=True)
            total += removed
            if seconds is not None and clock.monotonic() - began >= seconds:
                break
    except StorageUnavailable as error:
        if total:
            raise PartlyEnded(total, error) from error
        raise
    return Total(total, is_complete=False)


def _depends_on(store: type[Engine], setting: str) -> bool:
    """Return whether the storage of an engine was made from a setting."""
    if setting in store.settings_used:
        return True
    used = Engine._options_used.get(store, {})
    return setting == NAME and stated_options(store.settings_used) != used


def _forget_storages(*, setting: str, **kwargs: Any) -> None:
    """Close the storages that were made from a setting which has changed."""
    with Engine._storages_lock:
        # The storages around an engine's own storage are cheap to make.
        Engine._storages.clear()
        outdated = [store for store in Engine._own_storages if _depends_on(store, setting)]
        storages = [Engine._own_storages.pop(store) for store in outdated]
    for storage in storages:
        storage.close()


# This runs after the handler of ``conf``, which connected earlier and forgets the old settings.
setting_changed.connect(_forget_storages, dispatch_uid="django_sessionstores.sessions")

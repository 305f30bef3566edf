"""What tests of a site need: clients with sessions, a clock to move, and a store that is down.

The fixtures of `django_sessionstores.testing.pytest_plugin` are made of these functions, which do
not need pytest.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NoReturn, TypeVar, get_args

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import DataError, IntegrityError
from django.test import AsyncClient, Client

from ..conf import NAME, session_store
from ..core import clock
from ..core.lifetime import utc_datetime
from ..exceptions import StorageUnavailable
from ..inventory import Inventory
from ..payloads.cookie_chunks import join
from ..sessions import SessionStore
from ..storages.contract import LOCAL_CALLS, TWINS
from ..storages.layered import LayeredStorage
from .conformance.observation import stores_of
from .new_users import UNSUITABLE, new_user

AnyClient = TypeVar("AnyClient", Client, AsyncClient)

Part = Literal["everything", "reads", "writes", "cache"]
"""The part of a store that can be down, see `store_down`."""

_INSPECTIONS: Final = frozenset({"numbers", "summarize"})
"""Those that ask the store and have no async twin, because only the admin calls them."""
_READS: Final = _INSPECTIONS | {
    *("count", "find", "follow", "lookup", "lookup_many", "peek", "read", "read_latest", "scan")
}
_CALLS: Final = _INSPECTIONS | (TWINS - LOCAL_CALLS)


# Clients --------------------------------------------------------------------------------------


def sign_in(client: AnyClient, user: Any = None, /, **session_data: Any) -> AnyClient:
    """Give a client a session of its own, and return the client.

    ``user`` signs in; if there is none, a new user is made. ``session_data`` is stored in the
    session.
    """
    user = _made_user() if user is None else user
    client.force_login(user)
    if session_data:
        session = session_of(client)
        session.update(session_data)
        session.save()
        _send_key(client, session)
    return client


async def asign_in(client: AnyClient, user: Any = None, /, **session_data: Any) -> AnyClient:
    """See `sign_in`."""
    if user is None:
        user = await sync_to_async(_made_user)()
    await client.aforce_login(user)
    if session_data:
        session = session_of(client)
        await session.aupdate(session_data)
        await session.asave()
        _send_key(client, session)
    return client


def end_session(client: Client | AsyncClient) -> None:
    """End the session of a client, as another device or the admin does.

    The client keeps its cookie, and its next request is anonymous. Raises ``LookupError`` if the
    client has no live session, or if the engine cannot end any.
    """
    inventory, session = _inventory_that_ends(), session_of(client)
    session.load()  # This migrates a session of a previous backend.
    if session.session_id is None or not inventory.end(session.session_id):
        raise _no_session()


async def aend_session(client: Client | AsyncClient) -> None:
    """See `end_session`."""
    inventory, session = _inventory_that_ends(), session_of(client)
    await session.aload()
    if session.session_id is None or not await inventory.aend(session.session_id):
        raise _no_session()


def session_of(client: Client | AsyncClient, engine: Any = None) -> Any:
    """Return the session that the cookies of a client stand for, without loading it.

    Unlike ``client.session``, this never creates a session, and it reads cookies that the
    package's middleware has split. ``engine`` is a ``SessionStore``, if it is not that of the
    settings.
    """
    cookies = {name: morsel.value for name, morsel in client.cookies.items()}
    name = django_settings.SESSION_COOKIE_NAME
    engine = engine or session_store(django_settings.SESSION_ENGINE)
    return engine(join(name, cookies) if name in cookies else None)


def _send_key(client: Client | AsyncClient, session: Any) -> None:
    """Set the cookie of a client. The key is a new one after each save with some engines."""
    client.cookies[django_settings.SESSION_COOKIE_NAME] = session.session_key


def _made_user() -> Any:
    try:
        return new_user()
    except (*UNSUITABLE, IntegrityError, DataError) as error:
        raise LookupError(
            f"No user of {django_settings.AUTH_USER_MODEL} could be made by the kinds of its "
            f"fields: {type(error).__name__}: {error}. Make one, and pass it."
        ) from error


def _inventory_that_ends() -> Inventory:
    inventory = Inventory()
    if not inventory.storage.authoritative:
        raise LookupError(
            f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} cannot end sessions. Set "
            f"{NAME}['REGISTRY'], for the site as well."
        )
    return inventory


def _no_session() -> LookupError:
    return LookupError("The client has no live session to end. Sign in with it first.")


# The clock ------------------------------------------------------------------------------------


class SessionClock:
    """The time of sessions, which stands still until it is moved."""

    def __init__(self) -> None:
        self._moment = clock.now()

    @property
    def now(self) -> datetime:
        """The time at which sessions are read and written, in UTC."""
        return utc_datetime(self._moment)

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Move the clock forward. Sessions that are due by then expire, or get another key.

        Raises ``LookupError`` if the session engine is not one of the package.
        """
        _require_own_engine()
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if step < timedelta(0):
            # What has expired in a store is not there any more.
            raise ValueError("The clock of sessions can only move forward.")
        self._moment += step // timedelta(milliseconds=1)

    def milliseconds(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return self._moment


def _require_own_engine() -> None:
    engine = session_store(django_settings.SESSION_ENGINE)
    is_own = isinstance(engine, type) and issubclass(engine, SessionStore)
    if not is_own:
        raise LookupError(
            f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} is not an engine of "
            "django_sessionstores, so this clock does not move its sessions. Move all clocks, for "
            "example with freezegun or time-machine."
        )


@contextmanager
def frozen_clock() -> Iterator[SessionClock]:
    """Stop the clock of sessions for as long as the context lasts, and yield it.

    The clock is that of the whole process: of all threads, and of sync and async code. Other
    clocks, such as ``timezone.now()``, go on.
    """
    frozen = SessionClock()
    with clock.use(now=frozen.milliseconds):
        yield frozen


# The store ------------------------------------------------------------------------------------


@contextmanager
def store_down(part: Part = "everything") -> Iterator[None]:
    """Let the store of sessions not answer for as long as the context lasts.

    Each call raises ``StorageUnavailable``, in sync and async code and in all threads, and no
    session changes. ``part`` limits that to ``"reads"`` or ``"writes"``, or to the ``"cache"`` in
    front of a database. Change the settings of the engine before, because they may give it another
    store. Outages may overlap, and end in any order. Raises ``ValueError`` for another part, and
    ``LookupError`` if the engine has no such store.
    """
    if part not in get_args(Part):
        near = difflib.get_close_matches(str(part), get_args(Part), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Use one of {get_args(Part)}."
        raise ValueError(f"{part!r} is not a part of a store. {hint}")
    stores = stores_of(Inventory().storage)
    layered = [each for each in stores if isinstance(each, LayeredStorage)]
    if part == "cache":
        stores = [each.cache for each in layered]
    if not stores:
        raise LookupError(
            f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} has "
            + ("no cache in front of a database" if part == "cache" else "no store")
            + " that could be down. Choose the engine that you deploy."
        )
    calls = {"reads": _READS, "writes": _CALLS - _READS}.get(part, _CALLS)
    with ExitStack() as stack:
        for store in stores:
            for name in calls:
                for twin, refusal in ((name, _refuse), (f"a{name}", _arefuse)):
                    if hasattr(store, twin):
                        stack.enter_context(_refused(store, twin, refusal))
        try:
            yield
        finally:
            # Otherwise the next test would find that the cache is not asked for a while.
            for each in layered:
                each.forget_outage()


_NOTHING: Final = object()
_replaced: Final[dict[tuple[int, str], Any]] = {}
"""What a store itself had in the place of a method before its first outage."""
_outages: Final[Counter[tuple[int, str]]] = Counter()
"""How many outages are under way for a method of a store. They may end in any order."""


@contextmanager
def _refused(store: Any, name: str, refusal: Any) -> Iterator[None]:
    """Let a method raise an error until the last of its outages has ended."""
    method = id(store), name
    if not _outages[method]:
        _replaced[method] = vars(store).get(name, _NOTHING)
        setattr(store, name, refusal)
    _outages[method] += 1
    try:
        yield
    finally:
        _outages[method] -= 1
        if not _outages[method]:
            del _outages[method]
            before = _replaced.pop(method)
            if before is _NOTHING:
                delattr(store, name)
            else:
                setattr(store, name, before)


def _refuse(*args: Any) -> NoReturn:
    error = StorageUnavailable("The store of sessions does not answer, because a test says so.")
    error.was_sent = False
    raise error


async def _arefuse(*args: Any) -> NoReturn:
    _refuse()

"""Information about a session, without its key and its data."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from ..core.lifetime import utc_datetime
from ..core.records import Record

SHORT_ID: Final = 12
"""How many characters of an id a list shows.

Among a million sessions, the chance that two share them is 1 in 500.
"""


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Information about a session, without its key. Times are aware, in UTC."""

    id: str
    """The session id, see ``request.session.session_id``."""
    user_id: str | None
    """The primary key of the user as text; ``None`` for an anonymous session."""
    created: datetime
    """When the session began, or when its user signed in."""
    last_activity: datetime
    """When the session was last active; never later than the list.

    A request that only reads the session counts under the package's middleware, and this may lag
    behind by ``ACTIVITY_INTERVAL``. If such requests do not count, this is when the session was
    last saved.
    """
    expires: datetime
    """When the session expires unless it is saved before."""
    ip: str
    """The client's address at the last write; empty without the package's middleware."""
    user_agent: str
    """The client's ``User-Agent`` at the last write; empty without the package's middleware."""
    is_expired: bool
    """Whether the session has expired, and is only waiting to be purged."""
    first_id: str = ""
    """The id under which the session began, if its key was rotated since; empty otherwise."""
    size: int | None = None
    """The bytes of the encrypted session data; ``None`` if the list does not know them."""
    is_bound: bool = False
    """Whether the session is bound to the device of its user, see ``DEVICE_BINDING``."""
    was_refused: bool = False
    """Whether the key of a bound session was used without the proof of its device, by a program or
    browser that did not say why. Not known if the session key holds the session."""


class SessionPage(NamedTuple):
    """Some sessions, and the ``cursor`` of the next page, which is empty after the last page."""

    sessions: list[SessionInfo]
    next: str


def session_info(record: Record, moment: int) -> SessionInfo:
    """Return the information about a record's session at a moment.

    ``moment`` is in milliseconds since the epoch.
    """
    return SessionInfo(
        id=record.id,
        first_id=record.origin,
        user_id=record.user_id,
        created=utc_datetime(record.created),
        # A server whose clock is ahead may have written it.
        last_activity=utc_datetime(min(record.last_activity, moment)),
        expires=utc_datetime(record.expires),
        ip=record.ip,
        user_agent=record.user_agent,
        is_expired=record.expires <= moment,
        size=record.size or len(record.payload) or None,
        is_bound=record.is_bound,
        was_refused=record.was_refused,
    )

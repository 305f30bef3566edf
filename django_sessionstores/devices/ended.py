"""Telling a browser why its session has ended, see ``EXPLAIN_ENDS``."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest
from django.utils.translation import gettext_noop

from ..core.flow import Call, Flow, arun, run
from ..core.lifetime import utc_datetime
from ..core.phrases import Phrase, translate
from ..exceptions import StorageUnavailable
from ..sessions import SessionStore

TEXTS: Final = {
    "user": Phrase(gettext_noop("You signed out this device on another device.")),
    "staff": Phrase(gettext_noop("The staff of this site signed you out.")),
    "revoked": Phrase(gettext_noop("This site signed you out.")),
    "password": Phrase(
        gettext_noop("You were signed out, because the password of your account has changed.")
    ),
    "deactivated": Phrase(
        gettext_noop("You were signed out, because your account was deactivated.")
    ),
    "deleted": Phrase(gettext_noop("You were signed out, because your account was deleted.")),
    "evicted": Phrase(
        gettext_noop("You were signed out, because you have signed in on too many other devices.")
    ),
    "expired": Phrase(gettext_noop("You were signed out, because too much time has passed.")),
}
"""What a user reads, for each cause of an end."""


class EndedSession(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the session that a browser had before."""

    cause: str
    """``"user"`` if the user ended it on another device, ``"staff"`` for the staff of the site, and
    otherwise the reason that ``session_ended`` had."""
    when: datetime
    """When it ended: aware, in UTC."""
    text: str
    """The cause in words, in the language of the request."""


def ended_session(request: HttpRequest) -> EndedSession | None:
    """Return the end of the session that the browser of a request had.

    Returns ``None`` if there is nothing to tell: if the session lives, if the browser has none, if
    its user has signed out there, and while the store does not answer. The end is told once: the
    response deletes the cookie of the session.
    """
    return run(_ended_session(request))


async def aended_session(request: HttpRequest) -> EndedSession | None:
    """See `ended_session`."""
    return await arun(_ended_session(request))


def _ended_session(request: HttpRequest) -> Flow[EndedSession | None]:
    session = getattr(request, "session", None)
    if not isinstance(session, SessionStore):
        return None
    try:
        yield Call(session, "get", (SESSION_KEY,))  # Reads the session, if nothing has before.
    except StorageUnavailable:
        return None
    note = session.end_note
    if note is None:
        return None
    session.is_end_told = True
    return EndedSession(
        cause=note.cause, when=utc_datetime(note.moment), text=translate(TEXTS[note.cause])
    )

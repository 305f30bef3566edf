"""Refusals: what happens to a session that was read without the proof of its device."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import replace

from ..conf import reset_on_change, settings
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record, SecretDict, SecretText, refused_version
from ..exceptions import SessionConflict, StorageUnavailable, UnreadablePayload
from ..storages import revocation
from ..storages.base import Storage
from ..storages.calls import Calls
from . import device_proof, events, loading
from .knowledge import KnownSession
from .state import Event, Refused, Rotating, Stored, before_reading

security_logger = logging.getLogger("django.security.SuspiciousSession")

_INTERVAL: Final = 60_000
"""Milliseconds between two reports of the same session in one process."""
_MOST: Final = 1000
"""How many sessions are known at most that were reported in the last `_INTERVAL`."""

_reported: Final[dict[str, int]] = {}
"""When a session was last reported, by its id."""
reset_on_change()(_reported.clear)


def report(session: KnownSession, skipped: str) -> Flow[None]:
    """Log a refusal and send `session_rejected` for it, at most once per minute and session.

    End the session if ``END_WITHOUT_PROOF`` is set. ``skipped`` is the reason that the browser
    gives for having no proof; empty if it gives none.
    """
    refused, session.refused = session.refused, None
    if refused is None:
        return
    record, storage, sent = refused.record, session.storage(), list[Event]()
    if _is_due(record.id, clock.now()):
        reason = f" (the browser says: {skipped})" if skipped else ""
        security_logger.warning(
            "Session %s reads as empty: the proof of its device is missing%s.", record.id, reason
        )
        sent.append(loading.rejection_event(record.id, "no proof", skipped))
        if not (skipped or settings.END_WITHOUT_PROOF):
            yield from _mark(storage, record)
    if settings.END_WITHOUT_PROOF and storage.authoritative:
        # If the store does not answer now, the next request without a proof ends the session.
        with suppress(StorageUnavailable):
            ended = yield from revocation.end(storage, record.id, refused.key, record)
            if ended is not None:
                sent.append(loading.end_event(ended.id, "no proof", ended.user_id))
    yield from events.send_if_committed(type(session), storage, sent)


def accept_without_proof(session: KnownSession) -> None:
    """Have a session that is bound to a device be read without the proof of it.

    This is for the requests in which the browser brings the proof. Another middleware may have read
    the session already.
    """
    session.refused = None
    set_proof(session, None)
    state = session._current_state
    if isinstance(state, Refused):
        session._set_state(before_reading(state))
        vars(session).pop("_session_cache", None)
        session._modified = False


def set_proof(session: KnownSession, bound_cookie: SecretText | None) -> None:
    """Set the proof of a device that a request has brought; ``None`` if no proof is needed."""
    if session.policy is not None:
        session.policy = replace(session.policy, bound_cookie=bound_cookie)


def require_proof(session: KnownSession, bound_cookie: SecretText | None) -> None:
    """Have a session need the proof again after `accept_without_proof`, unless that was given.

    Without it, nothing else in the request reads or stores the session. Otherwise the session
    middleware would note activity, rotate the key and send it, and others would see the user. The
    refusal is not reported. ``bound_cookie`` is the proof with which the request came.
    """
    if session.policy is None or session.policy.bound_cookie is not None:
        return
    set_proof(session, bound_cookie)
    state, data = session._current_state, SecretDict(getattr(session, "_session_cache", {}))
    known = state.previous if isinstance(state, Rotating) else state
    if isinstance(known, Stored) and device_proof.is_missing(session.policy, data):
        session._set_state(Refused(known.key, known.record, drops_writes=True))
        session._session_cache = {}
        session._modified = session.cookie_is_due = False


def _mark(storage: Storage, record: Record) -> Flow[None]:
    """Have lists show that the key of a session was used without the proof of its device.

    This is one write for each session. No error of the store is raised, as for the last activity.
    """
    if record.was_refused or storage.holds_in_key:
        return
    calls, version = Calls(storage), refused_version(record.version)
    marked = msgspec.structs.replace(record, version=version, handle=None, size=None)
    with suppress(StorageUnavailable, SessionConflict, UnreadablePayload):
        if not (yield from calls.in_transaction()):
            yield from calls.update(marked, record, clock.now())


def _is_due(session_id: str, moment: int) -> bool:
    """Return whether a session should be reported at a moment, and remember that it is."""
    if moment - _reported.get(session_id, 0) < _INTERVAL:
        return False
    if len(_reported) >= _MOST:
        for each, reported in list(_reported.items()):
            if moment - reported >= _INTERVAL:
                _reported.pop(each, None)
        if len(_reported) >= _MOST:
            _reported.clear()
    _reported[session_id] = moment
    return True

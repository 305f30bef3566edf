"""Saves under the old id of a session, until the transaction that rotated it has committed."""

from __future__ import annotations

import logging
from operator import itemgetter
from typing import Any, Final

import msgspec

from ... import conf
from ...core import clock
from ...core.flow import Call, Flow
from ...core.records import Record, SecretDict, next_version
from ...exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from ...payloads.codec import newest_data
from ...payloads.merge import AUTH_KEYS, MISSING, MergeFunction, apply, changes, merge
from ..base import Conflict, Outcome, Storage

logger: Final = logging.getLogger("django_sessionstores")


def carry_over(data: Storage, base: Record, tombstone: Record, new_id: str) -> Flow[None]:
    """Supersede the data of a session that has got another id in a transaction.

    Until that transaction committed, other requests could save under the old id. What they saved
    since ``base`` is merged into the data under the new id.
    """
    current: Record | None = base
    while current is not None and current.is_live(clock.now()):
        if current.version != base.version:
            yield from _carry_changes(data, new_id, base, current)
            base = current
        try:
            outcome: Outcome = yield Call(data, "update", (tombstone, current, clock.now()))
        except StorageUnavailable as error:
            _warn_of_loss(new_id, f"whether there are any is not known, {error}")
            return
        current = outcome.current if isinstance(outcome, Conflict) else None


def _carry_changes(data: Storage, new_id: str, base: Record, changed: Record) -> Flow[None]:
    """Store what has changed since ``base`` under another id, or as much of it as possible."""
    try:
        if not (yield from _merge_into(data, new_id, base, changed)):
            _warn_of_loss(new_id, "together they are too large for the store")
    except (UnreadablePayload, StorageUnavailable) as error:
        _warn_of_loss(new_id, str(error))
    except Exception as error:  # noqa: BLE001 - the transaction has committed
        # Not its text, which may show the data.
        _warn_of_loss(new_id, type(error).__name__)


def _merge_into(data: Storage, new_id: str, base: Record, changed: Record) -> Flow[bool]:
    """Store the changes, or those that fit; return whether all of them fit.

    Raises `UnreadablePayload`.
    """
    codec = conf.codec()
    before, after = (
        SecretDict(codec.deserialize(newest_data(each, data.codec, codec)))
        for each in (base, changed)
    )
    try:
        yield from _lay_over(data, new_id, before, after)
    except PayloadTooLarge:
        pass
    else:
        return True
    is_whole = True
    for part in _parts(before, after):
        try:
            yield from _lay_over(data, new_id, before, part)
        except PayloadTooLarge:
            is_whole = False
    return is_whole


def _lay_over(data: Storage, new_id: str, before: SecretDict, mine: SecretDict) -> Flow[None]:
    """Merge changes into what is stored under an id. Raises `PayloadTooLarge`."""
    codec, limit = conf.codec(), data.max_payload
    functions = {
        key: _without_errors(function, new_id) for key, function in conf.merge_functions().items()
    }
    current: Record | None = yield Call(data, "read", (new_id,))
    while current is not None and current.is_live(now := clock.now()):
        theirs = SecretDict(codec.deserialize(newest_data(current, data.codec, codec)))
        merged = codec.serialize(merge(before, mine, theirs, functions, codec.is_same))
        payload = data.codec.encrypt(new_id, merged)
        if limit is not None and len(payload) > limit:
            raise PayloadTooLarge(f"The session takes {len(payload)} bytes.")
        version = next_version(current.version)
        record = msgspec.structs.replace(
            current, payload=payload, version=version, site=data.sites()[0]
        )
        outcome: Outcome = yield Call(data, "update", (record, current, now))
        current = outcome.current if isinstance(outcome, Conflict) else None


def _parts(before: SecretDict, after: SecretDict) -> list[SecretDict]:
    """Return the data with one of the changes each, the smallest change first.

    Changes of the auth keys count as one change.
    """
    codec, parts = conf.codec(), dict[object, tuple[int, SecretDict]]()
    for key, change in changes(before, after, codec.is_same):
        group = AUTH_KEYS if key in AUTH_KEYS else key
        size, part = parts.get(group, (0, SecretDict(before)))
        apply(change, part)
        parts[group] = size + len(codec.serialize_change(change).data), part
    return [part for _, part in sorted(parts.values(), key=itemgetter(0))]


def _without_errors(function: MergeFunction, session_id: str) -> MergeFunction:
    """Return a merge function that keeps the later value if ``function`` fails."""

    def merge_function(base: Any, mine: Any, theirs: Any) -> Any:
        try:
            value = function(base, mine, theirs)
            if value is not MISSING:
                conf.codec().serialize({"": value})
        except Exception as error:  # noqa: BLE001 - of the project
            logger.warning(
                "Session %s: a merge function failed with %s while its new id was committed. The "
                "value that was saved last is kept.",
                session_id,
                type(error).__name__,
            )
            return mine
        return value

    return merge_function


def _warn_of_loss(session_id: str, reason: str) -> None:
    logger.warning(
        "Session %s: changes that were saved while a transaction gave it this id may be lost: %s.",
        session_id,
        reason,
    )

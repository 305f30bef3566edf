"""Verification: whether the login in session data belongs to the user's current password.

`login_is_outdated` is a flow. The functions that read the user have a twin for async code, with an
``a`` before its name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.utils.crypto import constant_time_compare

from ..core.flow import Call, Flow


def login_is_outdated(data: Mapping[str, Any]) -> Flow[bool]:
    """Return whether the data has a login with a password that the user no longer has.

    Returns False if the user cannot be read: that must not make the caller fail.
    """
    if data.get(HASH_SESSION_KEY) is None or data.get(SESSION_KEY) is None:
        return False
    with suppress(Exception):
        outdated: bool = yield Call(sys.modules[__name__], "is_outdated", (data,))
        return outdated
    return False


def was_issued_under_fallback(data: Mapping[str, Any]) -> bool:
    """Return whether the login belongs to the current password and a key of
    ``SECRET_KEY_FALLBACKS``. False after a password change."""
    return _is_fallback_hash_of(_user_of(data), data[HASH_SESSION_KEY])


async def awas_issued_under_fallback(data: Mapping[str, Any]) -> bool:
    """See `was_issued_under_fallback`."""
    return await sync_to_async(was_issued_under_fallback)(data)


def is_outdated(data: Mapping[str, Any]) -> bool:
    """Return whether the login was made with a password that the user no longer has.

    Raises an error if there is no such user, or if users have no session hashes.
    """
    return not is_hash_of(_user_of(data), data[HASH_SESSION_KEY])


async def ais_outdated(data: Mapping[str, Any]) -> bool:
    """See `is_outdated`."""
    return await sync_to_async(is_outdated)(data)


def is_hash_of(user: Any, session_hash: str) -> bool:
    """Return whether a login's hash is the hash of the user's password under any secret key."""
    if constant_time_compare(session_hash, user.get_session_auth_hash()):
        return True
    return _is_fallback_hash_of(user, session_hash)


def _is_fallback_hash_of(user: Any, session_hash: str) -> bool:
    fallback_hashes = getattr(user, "get_session_auth_fallback_hash", tuple)
    return any(constant_time_compare(session_hash, each) for each in fallback_hashes())


def _user_of(data: Mapping[str, Any]) -> Any:
    # Not at the top: the models of django.contrib.auth need the app registry.
    from django.contrib.auth import get_user_model, load_backend

    user_id = get_user_model()._meta.pk.to_python(data[SESSION_KEY])
    return load_backend(data[BACKEND_SESSION_KEY]).get_user(user_id)

"""Whether a login was made under a ``SECRET_KEY`` that is now a fallback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.utils.crypto import constant_time_compare


def was_issued_under_fallback(data: Mapping[str, Any]) -> bool:
    """Whether the auth hash in a session's data belongs to the user's present password and one
    of ``SECRET_KEY_FALLBACKS``. False after a password change. Reads the user."""
    # Not at the top: the models of django.contrib.auth need the app registry.
    from django.contrib.auth import get_user_model, load_backend

    user_id = get_user_model()._meta.pk.to_python(data["_auth_user_id"])
    user = load_backend(data["_auth_user_backend"]).get_user(user_id)
    fallback_hashes = getattr(user, "get_session_auth_fallback_hash", tuple)
    return any(
        constant_time_compare(data["_auth_user_hash"], fallback_hash)
        for fallback_hash in fallback_hashes()
    )


async def awas_issued_under_fallback(data: Mapping[str, Any]) -> bool:
    """See `was_issued_under_fallback`."""
    return await sync_to_async(was_issued_under_fallback)(data)

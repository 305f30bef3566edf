"""Accounts: users, the end of their sessions after a change, and recent authentication."""

from .device_binding import ais_bound, bound_session_required, is_bound
from .recent_authentication import (
    aauthenticated_at,
    ahas_recent_authentication,
    amark_authenticated,
    authenticated_at,
    has_recent_authentication,
    mark_authenticated,
    recent_authentication_required,
)

__all__ = [
    "aauthenticated_at",
    "ahas_recent_authentication",
    "ais_bound",
    "amark_authenticated",
    "authenticated_at",
    "bound_session_required",
    "has_recent_authentication",
    "is_bound",
    "mark_authenticated",
    "recent_authentication_required",
]

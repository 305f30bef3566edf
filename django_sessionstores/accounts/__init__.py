"""Accounts: users, the end of their sessions after a change, and recent authentication."""

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
    "amark_authenticated",
    "authenticated_at",
    "has_recent_authentication",
    "mark_authenticated",
    "recent_authentication_required",
]

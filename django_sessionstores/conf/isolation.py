"""The sites and tenants that may share a store, told apart by the marks on their records.

A mark stands for a key of the key ring, so that sites with different secrets have different marks
without a setting of their own. While a site rotates its secret, it has a mark for each key.
"""

from __future__ import annotations

import hashlib

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, router

from .codecs import key_ring
from .options import settings
from .resets import cached_until_change


def tenant(database: str = DEFAULT_DB_ALIAS) -> str:
    """Return which tenant of the site the code runs for; empty if the site has none.

    A session names its user by primary key, and each database has users of its own. So a tenant is
    the database to which the routers write users. If a router raises an error, no tenant is
    selected. ``database`` is that of the sessions: users in the same one need no name, because
    those in any other one have theirs, also if it is the default one. The name of the site, see
    ``SITE``, is part of the tenant.
    """
    site = settings.SITE
    if not router.routers:
        return site
    users = _database_of_users()
    return site if users == database else f"{site}\0{users}"


def _database_of_users() -> str:
    # Not at the top: the models of django.contrib.auth need the app registry.
    from django.contrib.auth import get_user_model

    try:
        users = get_user_model()
    except ImproperlyConfigured:
        return DEFAULT_DB_ALIAS  # There are no users.
    try:
        return router.db_for_write(users)
    except DatabaseError:
        raise  # An outage: there may be a tenant.
    except Exception:  # noqa: BLE001 - what a router raises if no tenant is selected
        return DEFAULT_DB_ALIAS


@cached_until_change("SECRET_KEY", "SECRET_KEY_FALLBACKS")
def sites(tenant: str, namespace: str = "") -> tuple[int, ...]:
    """Return the marks of the records of this site, or of one of its tenants.

    The first is the mark for new records; the others belong to the older keys of the key ring.
    ``namespace`` is that of a cache, see `Storage.namespace`, if it tells tenants apart as well.
    """
    return tuple(_mark(key_id, tenant, namespace) for key_id in key_ring().ids)


def _mark(key_id: bytes, tenant: str, namespace: str) -> int:
    if namespace:
        # A tenant has at most one NUL, so that no other pair of texts has the same mark.
        tenant = f"{tenant}\0\0{namespace}"
    if tenant:
        key_id = hashlib.blake2b(
            key_id + tenant.encode(), digest_size=len(key_id), person=b"tenant"
        ).digest()
    # 0 is not a mark, see `Record.site`.
    return int.from_bytes(key_id, "big", signed=True) or 1

"""Sample data: a few hundred sessions of several users and devices, for the pages of sessions."""

from __future__ import annotations

import random
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import transaction

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client
from django_sessionstores.inventory import Inventory
from django_sessionstores.models import SessionStatistics
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.testing import DAY, HOUR, at

NAMES: Final = ("amara", "björn", "chiara", "dmitri", "emre", "فاطمة", "gwen", "haruto")
SESSIONS: Final = 300
_HOURLY: Final = {"": 3, "logout": 2, "expired": 1, "revoked": 0.2, "password": 0.1}
"""The least number of sessions that begin in an hour, and that end for each reason."""
_LIKE_GECKO: Final = "AppleWebKit/537.36 (KHTML, like Gecko)"
_IPHONE: Final = "(iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15"
DEVICES: Final = {
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_LIKE_GECKO} Chrome/142.0.0.0 Safari/537.36": 8,
    f"Mozilla/5.0 {_IPHONE} (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1": 7,
    f"Mozilla/5.0 (Linux; Android 15; Pixel 9) {_LIKE_GECKO} Chrome/142.0.0.0 Mobile "
    "Safari/537.36": 6,
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0": 4,
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_LIKE_GECKO} Version/18.6 Safari/605": 4,
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_LIKE_GECKO} Chrome/142.0.0.0 Safari/537.36 "
    "Edg/142.0.0.0": 3,
    "python-requests/2.32.5": 1,
}


def seed_crowd(store: type[Any]) -> int:
    """Create the sample sessions, unless they exist already; return how many were created."""
    storage = store.storage()
    if not (storage.lists and storage.authoritative):
        return 0
    inventory = Inventory()
    if len(inventory.list(limit=SESSIONS // 2).sessions) == SESSIONS // 2:
        return 0
    # The data is the same each time, so that screenshots of the pages can be compared.
    chance = random.Random(7)
    users = [None, None, *_people()]
    # With a database, this needs one commit instead of one for each session.
    with transaction.atomic():
        for _ in range(SESSIONS):
            _seed_session(store, chance, chance.choice(users))
        _seed_statistics(chance)
    return SESSIONS


def _seed_statistics(chance: random.Random) -> None:
    """Store statistics as of a site that has run for a month, with more sessions by day."""
    this_hour = now() // HOUR
    rows = SessionStatistics._base_manager
    rows.filter(hour__lt=this_hour).delete()
    rows.bulk_create(
        SessionStatistics(
            hour=hour, reason=reason, number=round(chance.uniform(least, least * 3) * day)
        )
        for hour in range(this_hour - 30 * 24, this_hour)
        for day in [3 if 7 <= hour % 24 <= 20 else 1]
        for reason, least in _HOURLY.items()
        if chance.random() < 0.8
    )


def _people() -> list[Any]:
    """Return the users, creating those that do not exist."""
    users = get_user_model()._default_manager
    for name in NAMES:
        users.get_or_create(username=name)
    return list(users.filter(username__in=NAMES))


def _seed_session(store: type[Any], chance: random.Random, user: Any) -> None:
    session = store()
    age = int(chance.expovariate(1 / (2 * DAY)))
    (agent,) = chance.choices(list(DEVICES), list(DEVICES.values()))
    client = Client(f"198.51.100.{chance.randrange(1, 255)}", agent)
    session.policy = RequestPolicy(client=lambda: client)
    session["cart"] = {"apples": chance.randrange(5), "pears": chance.randrange(3)}
    if user is not None:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session["checkout"] = {
            "addresses": [{"city": "Uppsala", "country": "SE"}],
            "payment_token": "not to be seen by anybody",
            "return_url": "/checkout/?step=2&token=nor-this",
        }
    # The sessions expire within a day, so that they do not accumulate.
    session.set_expiry((age + chance.randrange(HOUR, DAY)) // 1000)
    with at(now() - age):
        session.save()

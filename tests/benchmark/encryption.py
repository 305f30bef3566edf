"""What it takes to make a cookie of a session, and a session of a cookie, beside Django's signing.

Of what is serialised already: serialisers are a choice of their own.
"""

import hashlib
import timeit
from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.sessions.backends import signed_cookies
from django.core import signing

from django_sessionstores.conf import unencrypted_codec
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record, draw_key, session_id
from django_sessionstores.storages.cookie import CookieStorage

CALLS = 500
DATA = {
    "_auth_user_id": "42",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": hashlib.sha256(b"a hash that does not compress").hexdigest(),
    "cart": [{"id": 1713, "quantity": 2, "price": "12.50"}, {"id": 23, "quantity": 1}],
    "language": "de",
}
"""About 300 bytes as JSON."""


class _AsIs:
    def dumps(self, data: bytes) -> bytes:
        return data

    loads = dumps


def microseconds(rounds: int) -> Iterator[tuple[str, float, float]]:
    """Name, ours and Django's; the best of rounds in which the four take turns."""
    codec = unencrypted_codec()
    payload = codec.encrypt("", codec.serialize(DATA))
    moment = now()
    record = Record(
        id=session_id(draw_key()),
        payload=payload,
        user_id="42",
        created=moment,
        last_activity=moment,
        expires=moment + 14 * 86_400_000,
    )
    storage = CookieStorage()
    token = storage.create(record, moment).key
    assert token is not None
    text = signing.JSONSerializer().dumps(DATA)
    options: dict[str, Any] = {"salt": signed_cookies.__name__, "serializer": _AsIs}
    signed = signing.dumps(text, compress=True, **options)
    works: list[Callable[[], object]] = [
        lambda: storage.create(record, moment),
        lambda: signing.dumps(text, compress=True, **options),
        lambda: storage.read(token),
        lambda: signing.loads(signed, **options),
    ]
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            best[place] = min(best[place], timeit.timeit(work, number=CALLS) / CALLS * 1e6)
    yield "encrypt, or sign", best[0], best[1]
    yield "open, or verify", best[2], best[3]
    yield "characters", len(token), len(signed)

"""The session backends that the tests of other packages run on."""

from dataclasses import dataclass
from typing import Any

OURS = "django_sessionstores.backends"
DJANGOS = "django.contrib.sessions.backends"
OUR_MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"


@dataclass(frozen=True)
class Backend:
    """A session backend and the middleware that it runs under."""

    name: str
    engine: str
    middleware: str = ""
    """Instead of Django's; empty to keep that."""

    @property
    def is_ours(self) -> bool:
        return self.engine.startswith(OURS)

    @property
    def needs_redis(self) -> bool:
        return self.engine.rpartition(".")[2] in {"cache", "cached_db"}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that it needs besides the obvious ones."""
        registered = self.engine == f"{OURS}.cookie"
        return {"SESSIONSTORES": {"REGISTRY": "db"}} if registered else {}


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("Django's db", f"{DJANGOS}.db"),
        Backend("Django's cache", f"{DJANGOS}.cache"),
        Backend("Django's signed_cookies", f"{DJANGOS}.signed_cookies"),
        Backend("db", f"{OURS}.db"),
        Backend("db under our middleware", f"{OURS}.db", OUR_MIDDLEWARE),
        Backend("cache", f"{OURS}.cache"),
        # Under Django's middleware it cannot split its cookies.
        Backend("cookie", f"{OURS}.cookie", OUR_MIDDLEWARE),
    )
}

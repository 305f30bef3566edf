"""What is timed: requests that do one thing to the session, and the client calls each implies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import auth
from django.http import HttpRequest, HttpResponse

BACKEND = "django.contrib.auth.backends.ModelBackend"
VISIT = {
    "count": 1,
    "language": "en-gb",
    "seen": ["/", "/catalogue/", "/catalogue/lamps/", "/catalogue/lamps/17/"],
    "cart": {
        "17": {"name": "Desk lamp, brass", "quantity": 1, "price": "49.90"},
        "23": {"name": "Light bulb, E27, 4 W", "quantity": 3, "price": "3.50"},
    },
}
"""The session of an anonymous visitor: some 300 bytes, which no engine here compresses."""
LOGGED_IN = VISIT | {
    "_auth_user_id": "1",
    "_auth_user_backend": BACKEND,
    "_auth_user_hash": "5f" * 32,
}


class PlainSession(dict[str, Any]):
    """In place of a session in the request without sessions: data that nobody stores."""

    session_key = None

    def cycle_key(self) -> None:
        pass

    def flush(self) -> None:
        self.clear()

    async def aget(self, name: str, default: Any = None) -> Any:
        return self.get(name, default)

    async def aset(self, name: str, value: Any) -> None:
        self[name] = value

    async def aupdate(self, data: dict[str, Any]) -> None:
        self.update(data)

    async def ahas_key(self, name: str) -> bool:
        return name in self

    async def acycle_key(self) -> None:
        pass

    async def aflush(self) -> None:
        self.clear()


def visitor() -> Any:
    """Return a user that a login does not save, because ``last_login`` is not part of a session."""
    user = auth.get_user_model()(pk=1, username="ada", password="not a password")
    user.save = lambda **_: None
    return user


def untouched(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def read(request: HttpRequest) -> HttpResponse:
    request.session["count"]
    return HttpResponse()


def first_write(request: HttpRequest) -> HttpResponse:
    request.session.update(VISIT)
    return HttpResponse()


def read_and_write(request: HttpRequest) -> HttpResponse:
    request.session["count"] += 1
    return HttpResponse()


def login(request: HttpRequest) -> HttpResponse:
    auth.login(request, request.visitor, BACKEND)  # type: ignore[attr-defined]
    return HttpResponse()


def logout(request: HttpRequest) -> HttpResponse:
    # A site knows who logs out: its AuthenticationMiddleware has read the session.
    request.session["_auth_user_id"]
    auth.logout(request)
    return HttpResponse()


@dataclass(frozen=True)
class Operation:
    name: str
    view: Callable[[HttpRequest], HttpResponse]
    before: dict[str, Any] | None
    """What is in the session before the request; ``None`` where there is no session."""
    calls: tuple[str, ...]
    """The methods of `raw.Client` that it cannot do without."""
    ends_session: bool = False
    """Whether each request needs a session of its own."""


OPERATIONS = (
    Operation("untouched", untouched, LOGGED_IN, ()),
    Operation("read", read, LOGGED_IN, ("read",)),
    Operation("first write", first_write, None, ("create",)),
    Operation("read and write", read_and_write, LOGGED_IN, ("read", "update")),
    Operation("login", login, VISIT, ("read", "rotate"), ends_session=True),
    Operation("logout", logout, LOGGED_IN, ("read", "delete"), ends_session=True),
)

"""The operations of browsers and operators: each a view, written once for sync and async sites.

A text names an operation, its arguments, what the view does at the end, and its transaction.
``put.a`` sets the key ``a``. ``login.1+save`` signs user 1 in and saves in the view.
``login.1.first`` checks the password before it reads the session, as a login page does.
``put.a+save+error@rollback`` sets a key, saves and fails, in a transaction that is rolled back.

`language` says what a view may do at the end, and which transactions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.contrib import auth
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from . import language, watched
from .internals import Inventory, StorageUnavailable
from .model import DELETED, Request

if TYPE_CHECKING:
    from .world import World


class Do(NamedTuple):
    """A call that an operation asks for: ``target.name(...)``, or ``target.aname(...)``."""

    target: Any
    name: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] | None = None


Steps = Generator[Do, Any, Any]


class _Items:
    """Set keys of a session, by blocking and by awaited calls."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def set(self, key: str, value: object) -> None:
        self._session[key] = value

    async def aset(self, key: str, value: object) -> None:
        await self._session.aset(key, value)


class _Users:
    """Get the user of a request, by blocking and by awaited calls."""

    @staticmethod
    def of(http: HttpRequest) -> Any:
        return auth.get_user(http)

    @staticmethod
    async def aof(http: HttpRequest) -> Any:
        return await auth.aget_user(http)


class View:
    """One run of an operation, for a request of a browser or a call of an operator."""

    def __init__(self, world: World, request: Request, http: HttpRequest | None) -> None:
        self.world = world
        self.request = request
        self.model = world.model
        self._http = http
        if http is not None:
            http.user = SimpleLazyObject(lambda: auth.get_user(http))  # type: ignore[assignment]

            async def auser() -> Any:
                return await auth.aget_user(http)

            http.auser = auser

    @property
    def http(self) -> HttpRequest:
        """Return the request as Django sees it."""
        assert self._http is not None  # noqa: S101 - only operators have none
        return self._http

    @property
    def session(self) -> Any:
        """Return the current session object of the request."""
        return self.http.session

    def look(self) -> Steps:
        """Read the session, and let the model judge it."""
        base = yield Do(self.session, "get", ("base",))
        data = dict((yield Do(self.session, "items")))
        stored = yield Do(self.session, "deadlines")
        self.model.saw(self.request, None if stored is None else data)
        return base

    def user(self) -> Steps:
        """Return the signed-in user."""
        user = yield Do(_Users, "of", (self.http,))
        self.take_for(user)
        return user

    def take_for(self, user: Any) -> None:
        """Make this the signed-in user of the request, so that Django does not look it up."""

        async def auser() -> Any:
            return user

        self.http.user, self.http.auser = user, auser

    def set(self, key: str, value: object) -> Steps:
        """Change a key of the session."""
        self.note(key, value)
        yield Do(_Items(self.session), "set", (key, value))

    def note(self, key: str, value: object) -> None:
        """Report to the model a change that a save may store from now on."""
        self.request.changes[key] = value
        self.model.writes(self.request, key, value)


Operation = Callable[..., Steps]


def read(view: View) -> Steps:
    """Read a key."""
    yield from view.look()


def poll(view: View) -> Steps:
    """Ask for the signed-in user, and for messages, which are not there."""
    yield from view.look()
    user = yield from view.user()
    view.request.user = user.pk
    yield Do(view.session, "pop", ("messages", None))


def dismiss(view: View, key: str) -> Steps:
    """Set a key, and dismiss the change."""
    yield from view.look()
    yield Do(_Items(view.session), "set", (key, view.world.new_value()))
    view.session.modified = False


def put(view: View, key: str, *keys: str) -> Steps:
    """Set keys."""
    yield from view.look()
    for each in (key, *keys):
        yield from view.set(each, view.world.new_value())


def drop(view: View, key: str) -> Steps:
    """Delete a key."""
    yield from view.look()
    view.note(key, DELETED)
    yield Do(view.session, "pop", (key, None))


def nested(view: View) -> Steps:
    """Change a value inside a stored value, without setting ``modified``."""
    yield from view.look()
    box = yield Do(view.session, "get", ("nest",))
    if isinstance(box, dict):
        value = view.world.new_value()
        view.note("nest", {"n": value})
        box["n"] = value
    else:
        yield from view.set("nest", {"n": view.world.new_value()})


def clear(view: View) -> Steps:
    """Replace all data of a visitor without reading it."""
    if view.request.life is not None and view.request.life.user is not None:
        yield from put(view, "a")
        return
    for key in language.KEYS:
        view.note(key, DELETED)
    view.session.clear()
    yield from view.set("a", view.world.new_value())


def login(view: View, pk: str, order: str = "") -> Steps:
    """Sign a user in. With an ``order``, the password is checked before the session is read."""
    user = view.world.find_user(int(pk)) if order else None
    yield from view.look()
    if not order:
        user = view.world.find_user(int(pk))
    if user is not None:
        view.request.signs_in = user.pk
        yield Do(auth, "login", (view.http, user))


def logout(view: View) -> Steps:
    """Sign out."""
    yield from view.look()
    yield from view.user()
    yield Do(auth, "logout", (view.http,))
    view.model.ends_own(view.request)


def visit(view: View, pk: str) -> Steps:
    """Sign a user in, and out again."""
    yield from view.look()
    user = view.world.find_user(int(pk))
    if user is not None:
        view.request.cycles = True
        yield Do(auth, "login", (view.http, user))
    yield Do(auth, "logout", (view.http,))
    view.model.ends_own(view.request)


def flush(view: View) -> Steps:
    """Flush the session without reading it."""
    yield Do(view.session, "flush")
    view.model.ends_own(view.request)


def delete(view: View) -> Steps:
    """Delete the session by its key."""
    yield Do(view.session, "delete", (view.session.session_key,))
    view.model.ends_own(view.request)


def cycle(view: View) -> Steps:
    """Give the session a new key."""
    yield from view.look()
    view.request.cycles = True
    yield Do(view.session, "cycle_key")


def password(view: View) -> Steps:
    """Set a new password, and stay signed in."""
    yield from view.look()
    user = yield from view.user()
    if user.is_authenticated:
        view.request.cycles = True
        view.model.ends_user(view.request, user.pk, "password", but_own=True)
        view.world.change_user(user.pk, "password")
        view.model.ended_user(view.request)
        changed: Any = view.world.find_user(user.pk)
        if changed is not None:
            view.take_for(changed)
            yield Do(auth, "update_session_auth_hash", (view.http, changed))


def others(view: View) -> Steps:
    """Sign out everywhere else."""
    yield from view.look()
    user = yield from view.user()
    if user.is_authenticated:
        view.model.ends_user(view.request, user.pk, "revoked", but_own=True)
        but = {"but": view.session.stored_ids}
        yield Do(Inventory(), "end_all", (user,), but)
        view.model.ended_user(view.request)


def save(view: View) -> Steps:
    """Save in the view without a change."""
    yield Do(view.session, "save")


def replace(view: View) -> Steps:
    """Replace the session object by another one with the same key."""
    yield from view.look()
    view.http.session = view.session.__class__(view.session.session_key)
    view.request.life = view.request.presented
    yield from view.look()
    yield from view.set("a", view.world.new_value())


def load(view: View) -> Steps:
    """Load the session explicitly, and do not use it."""
    yield Do(view.session, "load")


def retry(view: View, key: str) -> Steps:
    """Save twice, because the project's merge function fails the first time."""
    yield from view.look()
    yield from view.set("m", view.world.new_value())
    yield from view.set(key, view.world.new_value())
    view.world.merge_failures.append(lambda: view.world.running() is view.request)
    try:
        with suppress(Exception):
            yield Do(view.session, "save")
    finally:
        view.world.merge_failures.clear()
    yield Do(view.session, "save")


def recover(view: View) -> Steps:
    """Save again if the store does not answer, and then raise an error in the view."""
    yield from view.look()
    yield from view.set("a", view.world.new_value())
    for _ in range(3):
        try:
            yield Do(view.session, "save")
        except StorageUnavailable:
            continue
        view.request.recovered = True
        raise ValueError("a mistake of the view's own")


def watch(view: View) -> Steps:
    """Hold a connection open under the session, which `recheck` looks after from then on."""
    yield from view.look()
    watched.add(view.world, view.request, view.session)


def end(view: View, browser: str) -> Steps:
    """End the session of a browser by its id."""
    key = view.world.browsers.get(browser)
    session_id = view.world.id_of(key) if key is not None else None
    if session_id is not None:
        view.model.ends_id(view.request, browser)
        answer = yield Do(Inventory(), "end", (session_id,))
        view.model.ended_id(view.request, answer)


def delete_key(view: View, browser: str) -> Steps:
    """Delete the session of a browser by its key."""
    key = view.world.browsers.get(browser)
    if key is not None:
        view.model.ends_id(view.request, browser)
        other = view.world.session_of(key).session_key
        yield Do(view.world.session_of(None), "delete", (other,))
        view.model.ended_id(view.request, None)


def end_all(view: View, pk: str) -> Steps:
    """End all sessions of a user."""
    view.model.ends_user(view.request, int(pk), "revoked", but_own=False)
    yield Do(Inventory(), "end_all", (pk,))
    view.model.ended_user(view.request)


def deactivate(view: View, pk: str) -> Steps:
    """Make a user inactive."""
    view.model.ends_user(view.request, int(pk), "deactivated", but_own=False)
    view.world.change_user(int(pk), "deactivated")
    view.model.ended_user(view.request)
    return
    yield


def purge(view: View) -> Steps:
    """Remove expired sessions."""
    yield Do(Inventory(), "purge")


def recheck(view: View) -> Steps:
    """Look which of the watched sessions have ended, as the watcher of open connections does."""
    world = view.world
    finder = watched.Finder(world.storages.current, world.watched)
    watched.judge(world, view.request, (yield Do(finder, "find")))


def wait(view: View, seconds: str) -> Steps:
    """Let time pass."""
    view.world.advance(int(seconds))
    return
    yield


OPERATIONS: Final[dict[str, Operation]] = {
    each.__name__: each
    for each in (
        *(
            read,
            poll,
            dismiss,
            put,
            drop,
            nested,
            clear,
            login,
            logout,
            visit,
            flush,
            delete,
            cycle,
        ),
        *(
            password,
            others,
            save,
            replace,
            load,
            retry,
            recover,
            watch,
            end,
            delete_key,
            end_all,
            deactivate,
            purge,
            recheck,
            wait,
        ),
    )
}

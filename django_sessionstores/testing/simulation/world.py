"""The simulated site: its stores, clock, users and browsers, and the requests they make."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from importlib import import_module
from typing import Any, Final

from django.conf import settings as django_settings

from . import handler, internals, users
from .cache_outages import CacheOutages, end_of_fault
from .configuration import BACKENDS, START, WEEKS, Config, failing_merges
from .database import Connection
from .internals import signals
from .model import Model, Request
from .restoring import restored
from .scheduler import Actor, Scheduler
from .site_storages import SiteStorages
from .users import User
from .watched import Watched

SIGNALS: Final = ("session_created", "session_rotated", "session_ended")


class World:
    """One site from its first request to its last."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.scheduler = Scheduler()
        self.scheduler.on_tick = self._pass_time
        self.scheduler.on_fault = self._note_fault
        self.time = START
        self.random = random.Random(0)  # noqa: S311 - must be repeatable, not secret
        self.model = Model(self)
        self.users = {pk: User(pk) for pk in (1, 2)}
        self.browsers: dict[str, str | None] = {}
        """The session cookie of each browser, or None."""
        self.given: dict[str, str] = {}
        """The cookies that browsers had before the first request."""
        self.cache_outages = CacheOutages()
        self.was_evicted_early = False
        """Whether the cache lost its entries while a request was under way, which may then store
        an older copy: nothing in the cache says that it is older."""
        self.secrets = 0
        """How many times the ``SECRET_KEY`` has changed."""
        self.requests: dict[str, Request] = {}
        self.storages = SiteStorages(config, self.scheduler)
        self.watched: list[Watched] = []
        """The sessions under which browsers hold connections open."""
        self.merge_failures = failing_merges
        self._values = 0

    @property
    def is_rolled_back(self) -> bool:
        """Return whether a transaction has been rolled back at any time."""
        return any(each.was_rolled_back for each in self.requests.values())

    @property
    def connection(self) -> Connection:
        """Return the database connection of the running request."""
        return self.storages.database.connection

    # --- Time ------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time on the clock of the running request's server, in milliseconds."""
        actor = self.scheduler.current
        return self.time + (actor.skew if actor else 0)

    def _pass_time(self) -> None:
        self.time += 1

    def _note_fault(self, label: str, store: str) -> None:
        if self.config.engine == "cached_db" and store == "cache":
            self._note_cache_outage()  # A request does not fail if only the copies do.
        elif label in self.requests:
            self.requests[label].faults += 1
            self.requests[label].recovered = False

    def _note_cache_outage(self) -> None:
        cache, process = self.storages.leaves["cache"], self.scheduler.process
        lasts = process in cache.cut_off
        until = None if cache.is_away else end_of_fault(self.time, lasts=lasts)
        others = [each for each in self.storages.processes if each != process]
        self.cache_outages.failed(process, until, others)
        self._note_uses()

    def note_cache_is_back(self) -> None:
        """Note that processes can reach the cache again."""
        cache = self.storages.leaves["cache"]
        if not (cache.is_away or cache.cut_off):
            self.cache_outages.ended(self.time, self.storages.processes)
            self._note_uses()

    def _note_uses(self) -> None:
        for each in self.scheduler.active():
            self.cache_outages.use(each.worker, self.time)

    @property
    def may_be_misled(self) -> bool:
        """Return whether a copy may have been used that the cache could not be told to remove."""
        is_skewed = any(each.skew for each in self.scheduler.actors.values())
        outages = self.cache_outages
        return self.was_evicted_early or outages.have_misled or (outages.were_any and is_skewed)

    def advance(self, seconds: int) -> None:
        """Let this many seconds pass."""
        self.time += seconds * 1000
        if seconds >= WEEKS:
            self.model.all_expired()
        self.scheduler.tick()

    # --- Users -----------------------------------------------------------------------------

    def find_user(self, pk: int) -> User | None:
        """Return a copy of an active user as stored, or None."""
        self.scheduler.point(f"users.get({pk})")
        user = self.users.get(pk)
        return copy(user) if user is not None and user.is_active else None

    def change_user(self, pk: int, cause: str) -> None:
        """Store a new password or make the user inactive, and end sessions at the commit.

        ``cause`` is "password" or "deactivated".
        """
        only = internals.sessions_before(str(pk)) if cause == "password" else None
        self.scheduler.point(f"users.update({pk})")
        user = self.users[pk]
        before = copy(user)
        if cause == "password":
            user.password += 1
        else:
            user.is_active = False
        connection = self.connection
        end = partial(internals.end_account_sessions, str(pk), cause, only)
        if connection.in_transaction:
            connection.undo.append(lambda: self.users.__setitem__(pk, before))
            connection.callbacks.append(end)
        else:
            end()

    def when_certain(self, action: Callable[[], object]) -> None:
        """Call ``action`` as soon as the changes of sessions cannot be rolled back any more."""
        if self.config.is_transactional:
            self.when_committed(action)
        else:
            action()

    def when_committed(self, action: Callable[[], object]) -> None:
        """Call ``action`` when the transaction commits, or now if there is none.

        Unlike `when_certain`, this does not depend on whether sessions take part in transactions.
        """
        if self.connection.in_transaction:
            self.connection.callbacks.append(action)
        else:
            action()

    def new_value(self) -> int:
        """Return a value that no request has stored yet."""
        self._values += 1
        return self._values

    # --- Reports of backends and signals ---------------------------------------------------

    def saved(self, session: Any) -> None:
        """See `recording.Recorder`."""
        request = self.running()
        if request is None:
            return
        key = session.session_key
        written, data = dict(request.changes), dict(session.items())
        request.saves += 1
        self.scheduler.tick()
        self.when_certain(lambda: self.model.saved(request, key, written, data))

    def save_failed(self, session: Any, error: BaseException) -> None:
        """See `recording.Recorder`."""
        request = self.running()
        if request is not None:
            request.failures.append(error)

    def running(self) -> Request | None:
        """Return the request that runs, or None."""
        actor = self.scheduler.current
        return None if actor is None else self.requests.get(actor.label)

    def note_signal(self, signal: Any, **facts: Any) -> None:
        """Note a signal of the package."""
        name = next(each for each in SIGNALS if getattr(signals, each) is signal)
        facts.pop("sender", None)
        if self.model.is_watching:
            self.model.signals.add(name, facts)

    # --- Requests --------------------------------------------------------------------------

    def start(self, label: str, who: str, text: str) -> Actor:
        """Begin a request of a browser, or a call of an operator if ``who`` is "o".

        ``text`` is the operation; see `operations`.
        """
        if who != "o":
            self.browsers.setdefault(who, None)
        request = Request(
            label=label,
            who=who,
            operation=text,
            key=self.browsers.get(who),
            began=self.scheduler.tick(),
            began_at=self.time,
            secrets=self.secrets,
        )
        self.requests[label] = request
        self.model.began(request)
        handle = handler.operate if who == "o" else handler.serve

        def work() -> None:
            handle(self, request)
            self._end(request)

        process = self.storages.process_of(len(self.requests) % 2)
        self.cache_outages.use(process, self.time)
        return self.scheduler.start(label, work, worker=process)

    def _end(self, request: Request) -> None:
        connection = self.storages.database.connections.get(request.label)
        if connection is not None:
            connection.close()
        request.ended = self.scheduler.tick()
        self.model.ended(request)

    def deliver(self, label: str) -> bool:
        """Let the response to a request arrive at its browser; return whether there was one."""
        request = self.requests.get(label)
        if request is None or request.ended is None or request.who == "o":
            return False
        if request.was_killed or request.arrived is not None:
            return False
        request.arrived, request.arrived_at = self.scheduler.tick(), self.time
        if request.cookie is not None:
            self.browsers[request.who] = request.cookie or None
        return True

    def start_in_previous(self, browser: str, pk: int | None) -> None:
        """Give a browser a session in the previous backend, of a user or anonymous."""
        name = "previous_in_cookie" if "cookie" in self.config.options else "previous"
        session = import_module(f"{BACKENDS}.{name}").SessionStore()
        value = self.new_value()
        session["base"] = value
        if pk is not None:
            user = self.users[pk]
            session["_auth_user_id"] = str(pk)
            session["_auth_user_backend"] = users.BACKEND
            session["_auth_user_hash"] = user.get_session_auth_hash()
        session.save()
        key = str(session.session_key)
        self.browsers[browser] = self.given[browser] = key
        self.model.existed(pk, key, {"base": value})

    def session_of(self, key: str | None) -> Any:
        """Return a session object with this key, as a request would get it."""
        engine: Any = import_module(django_settings.SESSION_ENGINE)
        return engine.SessionStore(key)

    def id_of(self, key: str) -> str | None:
        """Return the session id of a key, or None if the key is malformed."""
        session_id: str | None = self.session_of(key).session_id
        return session_id

    def decided(self, request: Request) -> int:
        """Return the tick of a request's last call of a store that decides its outcome.

        A store that only keeps copies does not decide. Neither does a registry under Django's
        middleware, which does not ask whether the session has ended since its data was stored.
        """
        copies = "cache." if self.config.engine == "cached_db" else " "
        if self.config.is_registered and self.config.middleware == "django":
            copies = "registry."
        steps = [each for each in self.scheduler.trace if each.actor == request.label]
        deciding = (each.tick for each in reversed(steps) if not each.text.startswith(copies))
        return next(deciding, 0)

    # --- Reading without changes -----------------------------------------------------------

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Undo at the end what the block does to the stores, for example by reading a session."""
        objects = (*self.storages.stateful(), *self.users.values())
        time, self.model.is_watching = self.time, False
        try:
            with restored(*objects):
                yield
        finally:
            self.time, self.model.is_watching = time, True

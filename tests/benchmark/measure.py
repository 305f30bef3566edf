"""Timing: contenders take turns in short slices, so that what disturbs one disturbs all."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from time import perf_counter_ns
from typing import Any

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.management import call_command
from django.http import HttpRequest
from django.test import override_settings

from tests.benchmark import raw
from tests.benchmark.operations import LOGGED_IN, OPERATIONS, Operation, PlainSession, visitor
from tests.cases import CACHE_ALIAS, LOCMEM, Case, Engine, OneDatabase, activate

SLICE = 10
"""Requests that a contender makes in one turn: some milliseconds at most."""
QUIET = 0.25
"""Of the rounds, how many count: those that took least time for all contenders together. What else
runs on the machine disturbs the others."""
POPULATION = 1000
"""Sessions that are in the store from the start: no request of a site that runs meets an empty
table, or is the first to make a folder."""
WARM_UP = 3
"""Rounds that are not counted: connections open, statements and scripts become known."""

OURS, DJANGOS, BARE, CLIENT = "ours", "django", "bare", "client"


@dataclass(frozen=True)
class Contender:
    """Someone who does an operation: what is made ready outside of the time, and the doing."""

    prepare: Callable[[], Any]
    do: Callable[[Any], Any]


Timed = Callable[[Callable[[Any], Any], list[Any]], int]


@dataclass(frozen=True)
class Figures:
    """Medians of one operation on one case, in microseconds for each request.

    What a session costs is the request less the same request without a session.
    """

    session: float
    """The cost of the session with the package's engine."""
    django: float | None
    """The same with Django's engine on the same store, if Django has one."""
    client: float | None
    """The calls to the store's client that the operation cannot do without."""

    @property
    def over_client(self) -> float | None:
        return self.session / self.client if self.client else None

    @property
    def of_django(self) -> float | None:
        return self.session / self.django if self.django else None


class WithDjangos(OneDatabase):
    """A router that sends Django's sessions to the same database as the package's."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        is_djangos = model._meta.app_label == "sessions"
        return self.alias if is_djangos else super().db_for_read(model, **hints)

    db_for_write = db_for_read


@contextmanager
def in_force(case: Case) -> Iterator[Engine]:
    """Yield a case with its stores, for both the package's engine and Django's."""
    # What Django has that keeps sessions in the process is its cache engine on LocMemCache.
    memory = {
        "CACHES": {alias: LOCMEM.configure(None) for alias in ("default", CACHE_ALIAS)},
        "SESSION_CACHE_ALIAS": CACHE_ALIAS,
    }
    with ExitStack() as stack:
        engine = stack.enter_context(activate(case, **(memory if case.engine == "memory" else {})))
        if case.database is not None:
            routers = [WithDjangos(engine.database)]
            stack.enter_context(override_settings(DATABASE_ROUTERS=routers))
            call_command("migrate", "sessions", database=engine.database, verbosity=0)
        if case.engine == "memory" or (case.cache is not None and case.cache.server is None):
            # Else Django's caches throw out all but 300 entries while they are timed.
            roomy = settings.CACHES[CACHE_ALIAS] | {"OPTIONS": {"MAX_ENTRIES": 1_000_000}}
            caches = settings.CACHES | {CACHE_ALIAS: roomy}
            stack.enter_context(override_settings(CACHES=caches))
        yield engine
        engine.empty()


def figures(engine: Engine, rounds: int) -> Iterator[tuple[Operation, Figures]]:
    """Time each operation on the case in force."""
    for store in filter(None, (engine.SessionStore, djangos_engine(engine.case))):
        for _ in range(min(POPULATION, rounds * SLICE)):  # A trial run need not wait.
            stored(store, LOGGED_IN)
    for operation in OPERATIONS:
        with contenders(engine, operation) as taking_part:
            yield operation, figures_of(take_turns(taking_part, rounds))


def figures_of(times: dict[str, list[float]]) -> Figures:
    """Return the figures of what `take_turns` has returned for all contenders."""
    times = quietest(times)
    return Figures(
        session=cost(times[OURS], times[BARE]),
        django=cost(times[DJANGOS], times[BARE]) if DJANGOS in times else None,
        client=median(times[CLIENT]) if CLIENT in times else None,
    )


def take_turns(
    taking_part: dict[str, Contender], rounds: int, timed: Timed | None = None
) -> dict[str, list[float]]:
    """Return microseconds for each request, one figure a round, by contender.

    ``timed`` does an operation for each of some subjects and returns the nanoseconds that it took.
    """
    times: dict[str, list[float]] = {name: [] for name in taking_part}
    order = list(taking_part)
    for number in range(-WARM_UP, rounds):
        # Each follows each other as often: what a contender leaves in the CPU's caches is shared.
        order = order[1:] + order[:1] if number % 2 else order[::-1]
        for name in order:
            contender = taking_part[name]
            subjects = [contender.prepare() for _ in range(SLICE)]
            with no_collection():
                elapsed = (timed or _time)(contender.do, subjects)
            if number >= 0:
                times[name].append(elapsed / SLICE / 1000)
    return times


def quietest(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the times of the rounds that count, the same rounds for each contender."""
    rounds = sorted(zip(*times.values(), strict=True), key=sum)
    counting = rounds[: max(1, int(len(rounds) * QUIET))]
    return dict(zip(times, map(list, zip(*counting, strict=True)), strict=True))


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _time(do: Callable[[Any], Any], subjects: list[Any]) -> int:
    start = perf_counter_ns()
    for subject in subjects:
        do(subject)
    return perf_counter_ns() - start


def cost(requests: list[float], bare: list[float]) -> float:
    return median(a - b for a, b in zip(requests, bare, strict=True))


@contextmanager
def contenders(engine: Engine, operation: Operation) -> Iterator[dict[str, Contender]]:
    """Yield the contenders: the package's engine, Django's, no sessions and the bare client."""
    taking_part = {
        OURS: through_middleware(engine.SessionStore, operation),
        BARE: without_sessions(operation),
    }
    djangos = djangos_engine(engine.case)
    if djangos is not None:
        taking_part[DJANGOS] = through_middleware(djangos, operation)
    client = raw.client(engine, stored_value(engine), operation.calls) if operation.calls else None
    if client is not None:
        taking_part[CLIENT] = through_client(client, operation)
    try:
        yield taking_part
    finally:
        if client is not None:
            client.close()


def djangos_engine(case: Case) -> Any:
    """Return Django's engine on the same store; ``None`` if it has none."""
    if case.other is not None and case.engine != "cookie":
        return None
    name = {"memory": "cache", "cookie": "signed_cookies"}.get(case.engine, case.engine)
    return import_module(f"django.contrib.sessions.backends.{name}").SessionStore


def through_middleware(
    store: Any, operation: Operation, kind: type[SessionMiddleware] = SessionMiddleware
) -> Contender:
    """Return the request through a session middleware, with sessions of this class."""
    middleware: Any = kind(operation.view)
    # Not by SESSION_ENGINE: the two engines take turns, and a changed setting starts ours anew.
    middleware.SessionStore = store

    # One session for all requests, where they leave it as usable as it was. A cookie that was
    # saved is an old one, which a registry would have to bring up to date.
    keeps_session = operation.before is not None and not operation.ends_session
    if "update" in operation.calls and hasattr(store, "storage"):
        keeps_session = keeps_session and not store.storage().holds_in_key
    has_own = operation.before is not None and not keeps_session
    key = stored(store, operation.before) if keeps_session else None

    def prepare() -> HttpRequest:
        return _request(stored(store, operation.before) if has_own else key)

    return Contender(prepare, middleware)


def stored(store: Any, data: dict[str, Any] | None) -> str:
    """Return the key of a new session with this data."""
    session = store()
    session.update(data)
    session.save()
    return str(session.session_key)


def without_sessions(operation: Operation) -> Contender:
    """Return the same view on data that is there already."""

    def prepare() -> HttpRequest:
        request = _request("none")
        request.session = PlainSession(operation.before or {})  # type: ignore[assignment]
        return request

    return Contender(prepare, operation.view)


def through_client(client: raw.Client, operation: Operation) -> Contender:
    keys = (f"{number:040x}" for number in itertools.count())
    calls = [getattr(client, name) for name in operation.calls]

    def stored() -> str:
        key = next(keys)
        client.create(key)
        return key

    kept = stored() if operation.before and not operation.ends_session else None

    def prepare() -> str:
        if operation.before is None:
            return next(keys)
        return kept or stored()

    def do(key: str) -> None:
        for call in calls:
            call(key)

    return Contender(prepare, do)


def stored_value(engine: Engine) -> bytes:
    """As many bytes as the store of the engine has for the payload of a logged-in session."""
    storage, key = engine.storage, stored(engine.SessionStore, LOGGED_IN)
    if storage.holds_in_key and engine.case.registry:
        record = storage.registry.read(storage.identify(key))
    else:
        record = storage.read(storage.locate(key))
    return bytes(len(record.payload))


def _request(key: str | None) -> HttpRequest:
    """As little of a request as the middleware and logging in ask for."""
    request = HttpRequest()
    request.method = "GET"
    if key is not None:
        request.COOKIES[settings.SESSION_COOKIE_NAME] = key
    request.visitor = visitor()  # type: ignore[attr-defined]
    return request

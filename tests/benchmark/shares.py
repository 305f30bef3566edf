"""What a part of a request costs: the request as it is, less the same without that part.

A profiler slows down Python and not the waiting; this slows down nothing. The shares do not add up
to the whole: what is taken out leaves the caches of the CPU to the rest.
"""

import itertools
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from django.contrib.sessions import middleware
from django.http.response import HttpResponseBase

from django_sessionstores.backends import memory
from django_sessionstores.conf import codec
from django_sessionstores.sessions import flows
from tests.benchmark import measure
from tests.benchmark.measure import BARE, CLIENT, OURS, Contender
from tests.benchmark.operations import OPERATIONS, Operation
from tests.cases import Engine

Replacement = tuple[Any, str, Any]
"""An object, the name of what is taken out of it, and what stands there meanwhile."""


def shares(engine: Engine, rounds: int) -> Iterator[tuple[Operation, dict[str, float]]]:
    """For each operation, in microseconds: the session, what to compare it with, and each part."""
    for operation in OPERATIONS:
        with measure.contenders(engine, operation) as taking_part:
            parts = {
                name: without(engine, operation, part(operation)) for name, part in PARTS.items()
            }
            # To take something out takes time as well, which is no part's.
            parts[_NOTHING] = without(engine, operation, (codec(), "decrypt", codec().decrypt))
            parts[_IN_PROCESS] = measure.through_middleware(memory.SessionStore, operation)
            if CLIENT in taking_part:
                parts[_IN_BETWEEN] = _followed_by(taking_part[CLIENT], parts[_IN_PROCESS])
            times = measure.quietest(measure.take_turns(taking_part | parts, rounds))
        costs = {
            "session": measure.cost(times[OURS], times[BARE]),
            _IN_PROCESS: measure.cost(times[_IN_PROCESS], times[BARE]),
        }
        if CLIENT in times:
            costs["client"] = median(times[CLIENT])
            costs[_IN_BETWEEN] = measure.cost(times[_IN_BETWEEN], times[_IN_PROCESS])
        yield (
            operation,
            costs | {name: measure.cost(times[_NOTHING], times[name]) for name in PARTS},
        )


_NOTHING = "nothing"
_IN_PROCESS = "the same in memory"
_IN_BETWEEN = "client in between"
_numbers = itertools.count()


def _followed_by(client: Contender, request: Contender) -> Contender:
    """Make each of the client's calls after a request without a round trip, not in a loop."""

    def do(subjects: tuple[Any, Any]) -> None:
        request.do(subjects[0])
        client.do(subjects[1])

    return Contender(lambda: (request.prepare(), client.prepare()), do)


def without(engine: Engine, operation: Operation, replacement: Replacement) -> Contender:
    """Return the same request with something in place of one of its parts."""
    whole = measure.through_middleware(engine.SessionStore, operation)
    target, name, value = replacement
    # A method stands in its class; what is put before it in an object is taken away again.
    is_own = name in vars(target)
    original = getattr(target, name)

    def do(request: Any) -> None:
        setattr(target, name, value)
        whole.do(request)
        if is_own:
            setattr(target, name, original)
        else:
            delattr(target, name)

    return Contender(whole.prepare, do)


def _decryption(operation: Operation) -> Replacement:
    decrypted = codec().serialize(operation.before or {})
    return codec(), "decrypt", lambda session_id, payload: decrypted


def _comparing(operation: Operation) -> Replacement:
    return codec(), "matches", lambda snapshot, data: True


def _serialising(operation: Operation) -> Replacement:
    # Never the same twice in a row, or there would be nothing to store.
    frozen = itertools.cycle(
        [codec().serialize((operation.before or {}) | {"count": -count}) for count in (1, 2)]
    )
    return codec(), "serialize", lambda data: next(frozen)


def _encryption(operation: Operation) -> Replacement:
    encrypt, encrypted = codec().encrypt, {}

    def stored_before(session_id: str, snapshot: Any) -> bytes:
        # What is read again must open.
        if session_id not in encrypted:
            encrypted[session_id] = encrypt(session_id, snapshot)
        return encrypted[session_id]

    is_read_again = operation.before is not None and not operation.ends_session
    payload = encrypt("", codec().serialize(operation.before or {}))
    return (
        codec(),
        "encrypt",
        stored_before if is_read_again else lambda session_id, snapshot: payload,
    )


def _drawing_a_key(operation: Operation) -> Replacement:
    return flows, "draw_key", lambda: format(next(_numbers), "032d")


def _vary_header(operation: Operation) -> Replacement:
    return middleware, "patch_vary_headers", lambda response, headers: None


def _cookie(operation: Operation) -> Replacement:
    return HttpResponseBase, "set_cookie", lambda *args, **kwargs: None


PARTS: dict[str, Callable[[Operation], Replacement]] = {
    "decryption": _decryption,
    "comparing": _comparing,
    "serialising": _serialising,
    "encryption": _encryption,
    "drawing a key": _drawing_a_key,
    "Vary header": _vary_header,
    "cookie": _cookie,
}

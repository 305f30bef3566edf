"""Metrics of sessions and of their storage, through OpenTelemetry.

There is a counter for each signal, and a histogram of the duration of storage calls. The attributes
are names of classes, operations and reasons, never an id, a key or a user.

There is no gauge of live sessions: each worker would have to count them in the store at each
export, and a sum over the workers would count each session once per worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.dispatch import Signal

from .. import signals
from ..core import flow
from ..core.flow import Call
from ..exceptions import missing_extra
from ..storages.base import Conflict, Gone, Storage, Taken, Updated
from ..storages.composed import ComposedStorage
from ..storages.contract import SAME_AS, STORE_CALLS

try:
    from opentelemetry.metrics import MeterProvider, get_meter
except ImportError as error:
    raise missing_extra("opentelemetry-api", "opentelemetry") from error

_NAME: Final = "django_sessionstores"
_COUNTED: Final = {
    signals.session_created: (
        "sessions.created",
        "{session}",
        "Sessions stored for the first time.",
    ),
    signals.session_rotated: ("sessions.rotated", "{session}", "Sessions whose key was rotated."),
    signals.session_ended: ("sessions.ended", "{session}", "Sessions that have ended."),
    signals.session_rejected: (
        "sessions.rejected",
        "{request}",
        "Requests with a rejected session key.",
    ),
    signals.client_changed: (
        "sessions.client_changed",
        "{session}",
        "Sessions whose client has changed.",
    ),
}
_OUTCOMES: Final = {Updated: "updated", Conflict: "conflict", Gone: "gone", Taken: "taken"}
_observing: Final[list[signals.Observer]] = []
_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""The boundaries of the histogram, in seconds: those that OpenTelemetry recommends for database
clients, and shorter ones for caches."""


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Start counting and measuring with a meter provider, by default the global one.

    With the setting ``OPENTELEMETRY``, this is called when Django starts. A second call replaces
    the first.
    """
    meter = get_meter(_NAME, meter_provider=meter_provider)
    counters = {
        signal: meter.create_counter(f"{_NAME}.{name}", unit=unit, description=description)
        for signal, (name, unit, description) in _COUNTED.items()
    }
    durations = meter.create_histogram(
        f"{_NAME}.storage.operation.duration",
        unit="s",
        description="Duration of storage calls.",
        explicit_bucket_boundaries_advisory=_BUCKETS,
    )

    def count(signal: Signal, sender: type[Any], facts: Mapping[str, Any]) -> None:
        attributes = {f"{_NAME}.engine": sender.__module__}
        if "reason" in facts:
            attributes[f"{_NAME}.reason"] = facts["reason"]
        counters[signal].add(1, attributes)

    def measure(call: Call, seconds: float, outcome: object) -> None:
        storage = call.target
        operation = SAME_AS.get(call.name, call.name)
        if not isinstance(storage, Storage) or operation not in STORE_CALLS:
            return
        # A composed storage calls other storages, whose calls are measured. A cookie has no store.
        if isinstance(storage, ComposedStorage) or storage.holds_in_key:
            return
        attributes = {
            f"{_NAME}.storage": type(storage).__name__,
            f"{_NAME}.operation": operation,
        }
        if isinstance(outcome, BaseException):
            attributes["error.type"] = type(outcome).__qualname__
        elif type(outcome) in _OUTCOMES:
            attributes[f"{_NAME}.outcome"] = _OUTCOMES[type(outcome)]
        durations.record(seconds, attributes)

    uninstrument()
    _observing.append(count)
    signals.observers.append(count)
    flow.watch(measure)


def uninstrument() -> None:
    """Stop counting and measuring."""
    while _observing:
        signals.observers.remove(_observing.pop())
    flow.watch(None)

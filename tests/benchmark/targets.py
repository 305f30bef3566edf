"""What is aimed at. Ratios, so that they mean the same on any machine."""

from dataclasses import asdict
from typing import Any

from tests.benchmark.measure import Figures
from tests.cases import Case
from tests.services import Memcached, MemcachedNodes, PostgreSQL, Redis

READ, WRITE, LOGIN = "read", "read and write", "login"

OVER_CLIENT = {
    Redis: {READ: 1.4, WRITE: 1.4},
    PostgreSQL: {READ: 1.4, WRITE: 1.4},
    Memcached: {READ: 1.6, WRITE: 1.5},
    MemcachedNodes: {READ: 1.6, WRITE: 1.5},
    "file": {READ: 6.0, WRITE: 1.3},
}
"""Of the time that the bare client takes, by server or engine, where one store is behind it."""
OF_DJANGO = {LOGIN: 1 / 3}
"""Of the time that Django's engine takes, by operation. Never slower, where nothing is said."""


def over_client(case: Case, operation: str) -> float | None:
    if len(case.stores) > 1 or case.registry:
        return None
    kind: Any = case.stores[0].server if case.stores else case.engine
    return OVER_CLIENT.get(kind, {}).get(operation)


def of_django(case: Case, operation: str) -> float | None:
    if case.registry:
        return None  # Django has none, so it does less.
    if case.other is not None:
        return None  # Django has no engine for it.
    if case.engine == "cookie":
        return 1.0  # There is no store to save a round trip to.
    return OF_DJANGO.get(operation, 1.0)


def row(case: Case, operation: str, figures: Figures) -> dict[str, Any]:
    """Return the figures of an operation with its targets, in plain types."""
    aims = {
        "over_client": over_client(case, operation),
        "of_django": of_django(case, operation),
    }
    reached = {name: getattr(figures, name) for name in aims}
    return {
        "case": case.id,
        "operation": operation,
        **{f"{name}_us": value for name, value in asdict(figures).items()},
        **reached,
        **{f"{name}_target": aim for name, aim in aims.items()},
        "met": all(
            aim is None or reached[name] is None or reached[name] <= aim
            for name, aim in aims.items()
        ),
    }

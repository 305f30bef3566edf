"""Tests for storages and engines, for the package and for your own, and help for tests of a site.

``conformance`` tests what a storage or an engine must do, call by call. ``simulation`` runs whole
requests against each other, in every order; it needs the extra ``simulation`` and is imported by
its own name. ``sites`` and ``pytest_plugin`` are for tests of a site. ``cases`` holds any session
backend to the promises that Django's interface shows::

    python -m django_sessionstores.testing django.contrib.sessions.backends.db
"""

from ..core.clock import now
from .conformance.engine import EngineContract
from .conformance.execution import Twin, in_threads
from .conformance.failures import RaisedError, raises
from .conformance.observation import (
    Hook,
    inner_storages,
    observed,
    stores_of,
    suspicious_messages,
)
from .conformance.request import RequestContract
from .conformance.storage import StorageContract
from .conformance.values import DAY, HOUR, MALFORMED_KEYS, at, successor, without_handle

__all__ = [
    "DAY",
    "HOUR",
    "MALFORMED_KEYS",
    "EngineContract",
    "Hook",
    "RaisedError",
    "RequestContract",
    "StorageContract",
    "Twin",
    "at",
    "in_threads",
    "inner_storages",
    "now",
    "observed",
    "raises",
    "stores_of",
    "successor",
    "suspicious_messages",
    "without_handle",
]

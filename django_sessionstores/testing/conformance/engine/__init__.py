"""The contract of an engine: tests of its sessions without a request."""

from .concurrency import ConcurrencyTests
from .data import DataTests
from .expiry import ExpiryTests
from .keys import KeyTests
from .outages import OutageTests
from .rotation import RotationTests
from .saving import SavingTests


class EngineContract(
    SavingTests,
    RotationTests,
    KeyTests,
    ExpiryTests,
    ConcurrencyTests,
    DataTests,
    OutageTests,
):
    """All tests of an engine, blocking or, with ``awaited = True``, by its async twins.

    A subclass sets ``SessionStore``.
    """

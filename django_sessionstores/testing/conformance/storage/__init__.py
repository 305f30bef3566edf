"""The contract of a storage: tests of each method of `storages.base.Storage`."""

from .copies import CopyTests
from .creation import CreationTests
from .damage import DamageTests
from .ending import BatchTests, DeletionTests, TombstoneTests
from .expiry import PurgeTests
from .isolation import IsolationTests
from .listing import ListingTests
from .rotation import RotationTests
from .updates import TouchTests, UpdateTests


class StorageContract(
    CreationTests,
    UpdateTests,
    TombstoneTests,
    TouchTests,
    DeletionTests,
    BatchTests,
    RotationTests,
    PurgeTests,
    DamageTests,
    ListingTests,
    IsolationTests,
    CopyTests,
):
    """All tests of a storage, blocking or, with ``awaited = True``, by its async twins.

    A subclass sets ``storage`` before each test, and may define ``damage``.
    """

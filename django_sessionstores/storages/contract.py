"""The methods and attributes of the contract of a storage, as the contract itself has them."""

from __future__ import annotations

from typing import Final

from .base import CacheStorage, Storage

TRAITS: Final = tuple(
    name
    for name, value in vars(Storage).items()
    if not (name.startswith("_") or callable(value) or isinstance(value, property))
)
"""The attributes by which a storage declares what it can do."""

TWINS: Final = frozenset(
    name
    for name in dir(CacheStorage)
    if not name.startswith("_") and hasattr(CacheStorage, f"a{name}")
)
"""The methods that have an async twin, by the names of the sync ones."""
LOCAL_CALLS: Final = frozenset({"in_transaction", "after_commit", "issue"})
"""Those of them that do not ask the store."""
SAME_AS: Final = {
    **dict.fromkeys(("find", "peek", "read_latest", "follow"), "read"),
    "end": "delete",
}
"""Those that a storage with one store answers like another one, by the name of that one."""
STORE_CALLS: Final = TWINS - LOCAL_CALLS - SAME_AS.keys()
"""Those that ask the store, each in its own way."""

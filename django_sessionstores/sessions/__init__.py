"""The behaviour of every session, written once: load, merge, save, rotate, end.

`store` has Django's interface. What an object knows of its stored session is one value, see
`state`. `loading`, `saving`, `conflicts` and `rotation` take such a value and return the next one.
A function that calls a storage is a flow (see `flow`), so that the sync and the async methods
cannot differ.
"""

from .engine import Total, purge_expired
from .store import SessionStore

__all__ = ["SessionStore", "Total", "purge_expired"]

"""The client library of memcached, and what its errors mean."""

from __future__ import annotations

from socket import gaierror
from ssl import SSLError
from typing import Any, Final

from ...exceptions import PayloadTooLarge, StorageFull, StorageUnavailable, missing_extra
from ..server_texts import quoted

try:
    from pymemcache.client.base import PooledClient
    from pymemcache.client.hash import HashClient
    from pymemcache.exceptions import (
        MemcacheError,
        MemcacheServerError,
        MemcacheUnexpectedCloseError,
        MemcacheUnknownCommandError,
    )
except ImportError as error:
    raise missing_extra("pymemcache", "memcached") from error

__all__ = [
    "BROKEN",
    "FAILURES",
    "TIMEOUT_SECONDS",
    "HashClient",
    "MemcacheError",
    "MemcacheUnexpectedCloseError",
    "PooledClient",
    "translate_error",
]

# pymemcache has no timeout by default: a node that hangs would hang its clients for ever.
TIMEOUT_SECONDS: Final = 2.0

# What the client raises if the node does not answer, or not as it should: its own errors, those
# of the socket, RuntimeError if the pool is used up, and the last two when it parses garbage.
FAILURES: Final = (MemcacheError, OSError, RuntimeError, ValueError, LookupError)
# What the client raises for an idle connection that the node has closed meanwhile.
BROKEN: Final = (ConnectionError, MemcacheUnexpectedCloseError)


_CLOSED: Final = "has closed the connection: it has stopped, or reached its connection limit, -c"
_MEANINGS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The answer to a connection too many. It knows all the commands that are sent.
    (MemcacheUnknownCommandError, "has reached its connection limit, -c, or is another server"),
    (ConnectionRefusedError, "refuses connections"),
    (TimeoutError, "did not answer in time"),
    (gaierror, "has a host name that is not known"),
    (SSLError, "cannot be reached with these settings for TLS"),
    (MemcacheUnexpectedCloseError, _CLOSED),
    (ConnectionError, _CLOSED),
    (OSError, "cannot be reached"),
    (MemcacheServerError, "refuses a command"),
    (RuntimeError, "has no free connection in the pool of this process"),
)
"""What the errors of the client say of a node. The first one that matches counts."""


def translate_error(
    error: Exception, node: str, alias: str, arguments: tuple[Any, ...]
) -> StorageUnavailable | PayloadTooLarge:
    """Return the exception of this package for an error of the client.

    ``alias`` is that of the cache. ``arguments`` are those of the command, of which the first one
    is the data.
    """
    text = b" ".join(arg for arg in error.args if isinstance(arg, bytes))
    if isinstance(error, MemcacheServerError):
        if b"too large" in text:
            return PayloadTooLarge(
                f"The session takes {len(arguments[0])} bytes, more than memcached at {node} "
                "keeps in one item. Store less in the session, or start memcached with a larger "
                "-I (1 MB by default)."
            )
        if b"out of memory" in text:
            return StorageFull(
                f"memcached at {node} (cache alias {alias!r}) has no memory left. Give it more "
                "with -m."
            )
    reason = quoted(text.decode("ascii", "replace") or error)
    meaning = next(
        (meaning for kind, meaning in _MEANINGS if isinstance(error, kind)),
        "did not answer as memcached does",
    )
    option = "['LOCATION']"
    if isinstance(error, SSLError):
        option = "['OPTIONS']['tls_context']"
    elif isinstance(error, RuntimeError):
        option = "['OPTIONS']['max_pool_size']"
    load = ", and at its load" if isinstance(error, TimeoutError) else ""
    return StorageUnavailable(
        f"memcached at {node} {meaning} ({type(error).__name__}: {reason}). Look at "
        f"CACHES[{alias!r}]{option}, and whether the server runs{load}."
    )

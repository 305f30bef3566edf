"""What the errors of Redis mean, and what to do about each."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Fault(NamedTuple):
    """A kind of error: the server's code if it has one, and what it means."""

    code: str
    words: str
    """A regular expression for texts of this kind. An error in a script has its code there."""
    kinds: tuple[type[Exception], ...]
    """The exceptions of the client that are always of this kind."""
    meaning: str
    cure: str
    """What to do: ``{entry}`` is the one of ``CACHES``, ``{rights}`` the command that gives rights,
    and ``{number}`` that of the database."""


_ADDRESS: Final = (
    "Look at the host, the port and the scheme ('rediss' is for TLS) in {entry}['LOCATION'], and "
    "whether the server runs."
)

_FAULTS: Final = (
    Fault(
        "NOPERM",
        "NOPERM|user executing the script",
        (NoPermissionError,),
        "The server does not give its user the rights that sessions need",
        "{rights}",
    ),
    # The server names HELLO, the first command, if that comes without a password.
    Fault(
        "",
        "NOAUTH|WRONGPASS",
        (AuthenticationError,),
        "The server refuses the user name or the password",
        "Correct the user name and the password in {entry}['LOCATION'] or ['OPTIONS'].",
    ),
    Fault(
        "",
        "HELLO|NOPROTO",
        (),
        "The server is older than Redis 6",
        "Add protocol=2 to the options of the connection pool in {entry}['OPTIONS'].",
    ),
    Fault(
        "",
        "DB index",
        (),
        "The server has no database {number}",
        "Correct the number at the end of {entry}['LOCATION'], or raise databases in the "
        "configuration of Redis.",
    ),
    Fault(
        "OOM",
        "OOM command",
        (OutOfMemoryError,),
        "The server has no memory left for writes",
        "Raise maxmemory in the configuration of Redis, or end sessions.",
    ),
    Fault(
        "READONLY",
        "READONLY",
        (ReadOnlyError,),
        "The server is a read-only replica",
        "Put the address of the primary first in {entry}['LOCATION'].",
    ),
    Fault(
        "NOREPLICAS",
        "NOREPLICAS",
        (),
        "The server refuses writes, because too few of its replicas are connected",
        "Bring the replicas back, or lower min-replicas-to-write in the configuration of Redis.",
    ),
    Fault(
        "MISCONF",
        "MISCONF",
        (),
        "The server refuses writes, because it cannot save to its disk",
        "Look at the disk and at the log of Redis.",
    ),
    Fault(
        "MASTERDOWN",
        "MASTERDOWN",
        (MasterDownError,),
        "The server is a replica that has lost its primary",
        "Put the address of the primary first in {entry}['LOCATION'].",
    ),
    Fault(
        "CLUSTERDOWN",
        "CLUSTERDOWN",
        (ClusterDownError,),
        "The cluster misses some of its nodes",
        "Bring them back. CLUSTER INFO and CLUSTER NODES say which they are.",
    ),
    Fault(
        "LOADING",
        "LOADING",
        (BusyLoadingError,),
        "The server is starting up: it reads its data from the disk",
        "Wait until it has done so.",
    ),
    Fault(
        "",
        "BUSY Redis",
        (),
        "The server is busy with a script that takes too long",
        "Wait, or end it with SCRIPT KILL.",
    ),
    Fault(
        "",
        "max number of clients",
        (),
        "The server has reached its connection limit",
        "Raise maxclients in the configuration of Redis, or lower max_connections of the "
        "connection pool in {entry}['OPTIONS'].",
    ),
    # The texts are those of pools that wait, and of redis-py before 6.
    Fault(
        "",
        r"^Too many connections\.?$|^No connection available",
        (MaxConnectionsError,),
        "The connection pool of this process has no free connection",
        "Raise max_connections of the connection pool in {entry}['OPTIONS'].",
    ),
    Fault(
        "",
        "CERTIFICATE",
        (),
        "The server has a TLS certificate that is not trusted",
        "Set ssl_ca_certs of the connection pool in {entry}['OPTIONS'].",
    ),
    Fault("", "refused", (), "The server refuses connections", _ADDRESS),
    # The client does not say if it is a right that is missing.
    Fault(
        "",
        "",
        (RedisClusterException,),
        "The cluster cannot be used",
        "Look at {entry}['LOCATION'], and whether the user may run CLUSTER SLOTS on each node.",
    ),
    Fault("", "", (RedisTimeoutError, TimeoutError), "The server did not answer in time", _ADDRESS),
    Fault("", "", (InvalidResponse,), "The server did not answer as Redis does", _ADDRESS),
    Fault("", "", (RedisConnectionError, OSError), "The server cannot be reached", _ADDRESS),
)
"""The first one that matches counts."""


_UNKNOWN: Final = Fault("", "", (), "The server refuses a command", "Look at the log of Redis.")


def fault_of(error: Exception, text: str) -> Fault:
    """Return the kind of an error of the client. ``text`` is the part of its text to show."""
    for fault in _FAULTS:
        if isinstance(error, fault.kinds) or (fault.words and re.search(fault.words, text)):
            return fault
    return _UNKNOWN

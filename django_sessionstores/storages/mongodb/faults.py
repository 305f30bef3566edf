"""What the errors of MongoDB and its client mean, and what to do about each."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

DUPLICATE_KEY: Final = 11000
NO_COLLECTION: Final = 26
UNKNOWN_FIELDS: Final = frozenset({9, 72, 323, 40415})
"""The codes for a field of a command that the server does not know, or that its strict API does not
allow."""
_NOT_CONFIRMED: Final = 64
_TIME_EXPIRED: Final = 50
TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""The codes for a document that is larger than the server accepts."""


class Fault(NamedTuple):
    """A kind of error."""

    meaning: str
    cure: str
    """What to do: ``{entry}`` is the setting that has the address, ``{rights}`` the call that gives
    rights, and ``{index}`` the name of an index."""
    codes: tuple[int, ...] = ()
    """The codes of the server."""
    kinds: tuple[type[Exception], ...] = ()
    """The exceptions of the client that are of this kind, if they have no such code."""
    words: str = ""
    """A regular expression for the texts of those exceptions that are of this kind."""
    is_full: bool = False
    may_be_of_majority: bool = False
    """Whether a write can have failed because it waits for the majority of the members."""

    @property
    def is_unknown(self) -> bool:
        """Whether only the code of the error tells it from others."""
        return not (self.codes or self.kinds)


_ADDRESS: Final = (
    "Look at the hosts, the ports and the TLS options in {entry}, and whether the server runs."
)
_STATUS: Final = "rs.status() shows its members."
MAJORITY: Final = (
    "In a replica set, a write also waits for the majority of the members, which rs.status() shows."
)
"""What to look at if a write has failed that may have waited for the majority."""

DIRECT: Final = "directConnection"
"""The text of an error that says that the only server is not the primary."""

_FAULTS: Final = (
    Fault(
        "The server is not the primary of its replica set, and what it has may be outdated",
        f"Remove directConnection from {{entry}}, or name the primary. {_STATUS}",
        kinds=(NotPrimaryError,),
        words=f"^{DIRECT}",
    ),
    Fault(
        "The server does not give its user the rights that sessions need",
        "Give the user its rights in MongoDB: {rights}",
        (13,),
    ),
    Fault(
        "The server refuses the user name or the password",
        "Correct the user name, the password and authSource in {entry}.",
        (11, 18),
    ),
    Fault(
        "The server has no space left on its disk",
        "Make room on the disk, or end sessions.",
        (14031,),
        is_full=True,
    ),
    Fault(
        "The server has no space left in its quota",
        "Raise the quota, or end sessions.",
        (8000,),
        words="space quota",
        is_full=True,
    ),
    Fault(
        "The server refuses the user name or the password",
        "Correct the user name and the password in {entry}.",
        (8000,),
    ),
    Fault(
        "The replica set has changed its primary, or its primary is shutting down",
        f"It takes some seconds until there is another one. {_STATUS}",
        (10107, 13435, 13436, 189, 11600, 11602, 91, 10058),
        (NotPrimaryError,),
    ),
    Fault(
        "Too few members of the replica set confirm writes",
        f"Bring them back: sessions need the majority of those that store data. {_STATUS}",
        (_NOT_CONFIRMED, 79, 100),
        (WTimeoutError,),
    ),
    Fault(
        # A capped one accepts sessions, and drops the oldest ones when it is full.
        "The collection is a view, capped or a time series, so it cannot hold sessions",
        "Name another collection in MONGODB_COLLECTION, or one that does not exist yet.",
        (2, 67, 72, 166, 168, 10003),
        words="is a view|capped|time-series|BSON UTC datetime|not supported in aggregation",
    ),
    Fault(
        "An index of the collection is not like the one that sessions need",
        "Drop the index, and run manage.py sessions reindex.",
        (67, 85, 86),
    ),
    Fault(
        "The collection has a validator that does not allow sessions",
        "Remove the validator, or name another collection in MONGODB_COLLECTION.",
        (121,),
    ),
    Fault(
        "A unique index of the collection does not let it have more than one session",
        "Drop the index {index}, or name another collection in MONGODB_COLLECTION.",
        (DUPLICATE_KEY,),
    ),
    Fault(
        "The connection pool of this process has no free connection",
        "Raise maxPoolSize in {entry}.",
        kinds=(WaitQueueTimeoutError,),
    ),
    Fault(
        "The server has a TLS certificate that is not trusted",
        "Set tlsCAFile in {entry}.",
        kinds=(ConnectionFailure,),
        words="CERTIFICATE",
    ),
    Fault(
        "The replica set has no primary",
        f"Bring the majority of its members back. {_STATUS}",
        kinds=(ServerSelectionTimeoutError,),
        # Of its members, some answer.
        words="RSSecondary|RSArbiter|RSOther|RSGhost",
    ),
    Fault("The server refuses connections", _ADDRESS, kinds=(ConnectionFailure,), words="refused"),
    Fault(
        "The replica set has no primary",
        f"Bring the majority of its members back, and look at replicaSet in {{entry}}. {_STATUS}",
        kinds=(ServerSelectionTimeoutError,),
        words="No primary|match selector|No replica set members",
    ),
    Fault(
        "The server did not answer in time",
        _ADDRESS,
        (_TIME_EXPIRED, 262),
        (NetworkTimeout,),
        may_be_of_majority=True,
    ),
    Fault(
        "The server did not answer in time",
        _ADDRESS,
        kinds=(ConnectionFailure,),
        words="timed out",
        may_be_of_majority=True,
    ),
    Fault("The server cannot be reached", _ADDRESS, kinds=(ConnectionFailure, OSError)),
    Fault(
        "The client cannot be used",
        "Look at {entry}.",
        kinds=(ConfigurationError, InvalidOperation),
    ),
)
"""The first one that matches counts."""

_UNKNOWN: Final = Fault("The server refuses a command", "Look at the log of MongoDB.")
_MOST_TEXT: Final = 200


def code_of(error: BaseException) -> int | None:
    """Return the server's code of an error; ``None`` if the client has made the error."""
    details = _details(error)
    code = details.get("code")
    return code if isinstance(code, int) else getattr(error, "code", None)


def _details(error: BaseException) -> Any:
    """Return what the server says about an error."""
    details = getattr(error, "details", None)
    if isinstance(error, BulkWriteError):
        for name in ("writeErrors", "writeConcernErrors"):
            if found := error.details.get(name):
                return found[-1]
    if not isinstance(details, dict):
        return {}
    nested = details.get("writeConcernError")
    return nested if isinstance(nested, dict) else details


def _is_unconfirmed(error: Exception) -> bool:
    """Return whether the server has carried out a write, and too few members have confirmed it."""
    if isinstance(error, BulkWriteError):
        return not error.details.get("writeErrors")
    return isinstance(error, WriteConcernError)


def is_of_id(error: BaseException) -> bool:
    """Return whether the index that refuses a duplicate is the one of ``_id``."""
    return index_of(error) in {"", "_id_"}


def index_of(error: BaseException) -> str:
    """Return the name of the index that refuses a duplicate; empty if it is not known."""
    found = re.search(r" index: (\S+) dup key", str(_details(error).get("errmsg", "")))
    return found[1] if found else ""


def is_answer(error: Exception) -> bool:
    """Return whether the server has answered, if only with an error."""
    if isinstance(error, NotPrimaryError):
        return True
    return isinstance(error, OperationFailure) and not error.timeout


def was_sent(error: Exception) -> bool:
    """Return whether the command may have reached the server.

    The client waits for a server before it sends a command. If it has sent the command before and
    waits again, to repeat it, it raises the error of the first time instead.
    """
    return not isinstance(error, ServerSelectionTimeoutError)


def fault_of(error: Exception) -> Fault:
    """Return the kind of an error of the client."""
    code, text = code_of(error), str(error)
    if code == _TIME_EXPIRED and _is_unconfirmed(error):
        code = _NOT_CONFIRMED
    for fault in _FAULTS:
        is_kind = code in fault.codes if code is not None else isinstance(error, fault.kinds)
        if is_kind and (not fault.words or re.search(fault.words, text)):
            return fault
    return _UNKNOWN


def label_of(error: Exception) -> str:
    """Return what to show of an error besides its meaning.

    A server quotes the command that it refuses, so its name for the error has to do.
    """
    code = code_of(error)
    if code is not None:
        return " ".join(filter(None, (f"error {code}", str(_details(error).get("codeName", "")))))
    # What follows describes each server of the replica set once more.
    text, _, _ = str(error).partition(" (configured timeouts")
    text, _, _ = text.partition(", Timeout:")
    return f"{type(error).__name__}: {text[:_MOST_TEXT].rstrip('.')}"

"""What keeps a database from being connected to or from storing, and what to do about it."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from django.db import DataError, Error, OperationalError, ProgrammingError

from ...exceptions import StorageFull, StorageUnavailable
from ..server_texts import quoted
from .lost_races import code_of, is_answer, summary_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

TOO_LARGE: Final = (
    "cannot store a session of this size. Store less in the session, or raise max_allowed_packet "
    "of the server if it is MySQL or MariaDB."
)
"""What follows the name of a database."""
_MYSQL_PACKET_TOO_LARGE: Final = 1153
_SCHEMA_DIFFERS: Final = ("no such table", "no such column", "has no column named")
NO_GREETING: Final = (IndexError, ValueError, UnboundLocalError, struct.error)
"""What PyMySQL raises for bytes that are not the greeting of MySQL, or only a part of it."""
_MYSQL_BAD_HANDSHAKE: Final = 2012
_MYSQL_DISK: Final = frozenset({3, 1026, 1030})
"""Errors of a disk, of which the text says whether it is full."""


class Fault(NamedTuple):
    """A kind of error.

    ``codes`` are those of the server: five characters of PostgreSQL, numbers of MySQL, names of
    SQLite. PostgreSQL's client does not hand over the code if there is no connection. Then
    ``words``, a regular expression for the text in English, tells the kind and thereby the code,
    which is the first one.
    """

    meaning: str
    """What follows the name of the database."""
    cure: str
    """What to do: ``{entry}`` is the one of ``DATABASES``, ``{grant}`` gives the rights, and
    ``{command}`` makes the table."""
    codes: tuple[object, ...] = ()
    words: str = ""
    names_objects: bool = False
    """Whether the text of the server names tables and users only, and may be shown."""
    is_full: bool = False


_ADDRESS: Final = "Look at {entry}['HOST'] and ['PORT'], and whether the server runs."
_TIMEOUT: Final = "Look at {entry}['HOST'] and ['PORT'], whether the server runs, and at its load."
_LOGIN: Final = "Look at {entry}['USER'] and ['PASSWORD']."
_LOST: Final = Fault(
    "has ended the connection",
    "The log of the server says why: it was restarted, or somebody has ended its connections.",
    ("57P01", "57P02", "57P05", "25P03", 2006, 2013, 1927, 4031),
)

_FAULTS: Final = (
    Fault(
        "has reached its connection limit",
        "Set {entry}['CONN_MAX_AGE'] to 0, which ASGI needs, or use a pool. Or raise the limit in "
        "the server (max_connections, or that of the user).",
        ("53300", 1040, 1203, 1226),
        "too many (clients|connections)|remaining connection slots|max_user_connections",
    ),
    Fault(
        "does not give its user the rights that sessions need",
        "Run in the database: {grant}",
        ("42501", 1044, 1142, 1143, 1370),
        "permission denied for",
        names_objects=True,
    ),
    Fault(
        "has a server of another kind at its address",
        _ADDRESS,
        (_MYSQL_BAD_HANDSHAKE,),
        "expected authentication request|invalid response to SSL negotiation|packet sequence",
    ),
    Fault("does not know the user", _LOGIN, ("28000",), "role .* does not exist"),
    Fault(
        "refuses the user or the password",
        _LOGIN,
        ("28P01", "28000", 1045, 1698, 1862, 4151),
        "password|authentication|access denied|pg_hba",
    ),
    Fault(
        "does not exist on the server",
        "Look at {entry}['NAME'].",
        ("3D000", 1049),
        "database .* does not exist|unknown database",
    ),
    Fault(
        "cannot be opened",
        "Look at {entry}['NAME'], and let the user of the site open the file and its folder.",
        ("SQLITE_CANTOPEN",),
        "unable to open database file",
    ),
    Fault(
        "is read-only",
        "Name the primary in {entry}['HOST'] if this server is a standby, or let it accept writes.",
        ("25006", 1290, 1836, 1792),
    ),
    Fault(
        "is read-only",
        "Let the user of the site write to the file {entry}['NAME'] and to its folder.",
        ("SQLITE_READONLY", "SQLITE_READONLY_DIRECTORY", "SQLITE_READONLY_DBMOVED"),
    ),
    Fault(
        "has no space left on its disk",
        "Make room on the disk.",
        ("53100", 1021, 1114, "SQLITE_FULL"),
        "No space left|error 28\\b|errno: 28\\b",
        is_full=True,
    ),
    Fault(
        "has no memory left",
        "Look at the memory of the server.",
        ("53200", 1037, 1038, 1041, "SQLITE_NOMEM"),
    ),
    Fault(
        "is starting up or shutting down",
        "Wait until the server runs, or name another one in {entry}['HOST'].",
        ("57P03", 1053),
        "starting up|shutting down|not (yet )?accepting connections|recovery mode",
    ),
    _LOST,
    Fault(
        "did not finish a statement in time",
        "Look at the load and the locks of the database, and at the limits for statements.",
        ("57014", "55P03", 1205, 1317, 1969, 3024),
    ),
    Fault(
        "is locked by another connection",
        "Look for long transactions, or raise timeout in {entry}['OPTIONS'].",
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
    ),
    Fault(
        "cannot be reached with these settings for TLS",
        "Look at {entry}['OPTIONS'], and whether the server runs.",
        (2026,),
        r"\bssl\b|\btls\b|certificate",
    ),
    Fault("refuses connections", _ADDRESS, words="refused"),
    Fault(
        "has a host name that is not known",
        _ADDRESS,
        (2005,),
        "resolve|translate host|not known|unknown .*host",
    ),
    Fault("did not answer in time", _TIMEOUT, words="time.?out|timed out"),
    Fault("cannot be reached", _ADDRESS, (2002, 2003), "can't connect|unreachable|lost connection"),
)
"""The first one that matches counts."""
_UNOPENED: Final = Fault("cannot be connected to", "Look at {entry}, and whether the server runs.")
_MISSING_TABLE: Final = {
    "postgresql": ("Run: {command} (or give the user the right to use the schema of the table)."),
    "sqlite": (
        "If the site has had data, restore the file {entry}['NAME']. If it is new, run: {command}."
    ),
}
"""What to do about a missing table, by the kind of the database."""
_UNKNOWN: Final = Fault(
    "did not answer as it should",
    "The cause of this exception, and the log of the database, say more.",
)


def is_too_large(error: Exception) -> bool:
    """Return whether a statement failed because a value is larger than the database accepts."""
    if code_of(error) == _MYSQL_PACKET_TOO_LARGE:
        return True
    return isinstance(error, DataError) and "too big" in str(error)  # SQLite has no code for it.


def refuses_statement(connection: BaseDatabaseWrapper, error: Exception) -> bool:
    """Return whether the database has refused a statement, and may accept others."""
    return isinstance(error, Error) and (connection.vendor == "sqlite" or is_answer(error))


def handshake_error(
    connection: BaseDatabaseWrapper, error: BaseException
) -> OperationalError | None:
    """Return Django's error for one of `NO_GREETING`; ``None`` if it is another error."""
    if connection.connection is not None or not isinstance(error, NO_GREETING):
        return None
    name = type(error).__name__
    return OperationalError(_MYSQL_BAD_HANDSHAKE, f"Error in server handshake ({name})")


def connection_error(connection: BaseDatabaseWrapper, error: Exception) -> str | None:
    """Return the message that no connection could be opened; ``None`` if an open one has failed.

    It quotes the driver, which has not been given a statement yet, so no data can be in its text.
    """
    if connection.connection is not None:
        return None
    return _message(connection, error, _fault_of(error, is_open=False) or _UNOPENED)


def outage_of(
    connection: BaseDatabaseWrapper, error: Error, table: str, command: str
) -> StorageUnavailable:
    """Return the exception to raise for an error of a database or of its client.

    ``command`` is the management command that makes the table. Of a statement's error, the text is
    shown only if no data can be in it. The cause of the exception has the whole text.
    """
    is_open = connection.connection is not None
    fault = _fault_of(error, is_open=is_open)
    # The statements are fixed: if they are wrong, the table is not the one that they are for.
    if fault is None and (
        isinstance(error, ProgrammingError) or any(text in str(error) for text in _SCHEMA_DIFFERS)
    ):
        cure = _MISSING_TABLE.get(connection.vendor, "Run: {command}.")
        fault = Fault("has no table for sessions that could be used", cure)
    if fault is None:
        fault = _UNOPENED
        if is_open:
            # An error that the client has made.
            is_lost = connection.vendor != "sqlite" and not is_answer(error)
            fault = _LOST if is_lost else _UNKNOWN
    kind = StorageFull if fault.is_full else StorageUnavailable
    run = f"python manage.py {command}"
    return kind(_message(connection, error, fault, table if is_open else "", run))


def _fault_of(error: Exception, *, is_open: bool) -> Fault | None:
    # The first codes are those that the client knows. Its texts may have data in them.
    code, text = code_of(error) or _sqlite_code(error), str(error)
    for fault in _FAULTS:
        # A client may call it lost although there was no connection yet.
        if code in fault.codes and (is_open or fault is not _LOST):
            return fault
    if is_open and code not in _MYSQL_DISK:
        return None
    found = (each for each in _FAULTS if each.words)
    return next((each for each in found if re.search(each.words, text, re.IGNORECASE)), None)


def _sqlite_code(error: Exception) -> str | None:
    return getattr(error.__cause__, "sqlite_errorname", None)


def _message(
    connection: BaseDatabaseWrapper,
    error: Exception,
    fault: Fault,
    table: str = "",
    command: str = "",
) -> str:
    alias, vendor = connection.alias, connection.vendor
    is_open, code = connection.connection is not None, code_of(error)
    if code is None and not is_open and vendor == "postgresql":
        code = next((each for each in fault.codes if isinstance(each, str)), None)
    if is_open and not fault.names_objects:
        text = summary_of(error) if code is None else f"{code}: {summary_of(error)}"
    else:
        name = type(error).__name__ if code is None else code
        text = f"{name}: {_text_of(connection, error)}"
    if vendor == "sqlite" and not is_open:
        text = f"{text}: {connection.settings_dict['NAME']}"
    grant = _grant(connection, table) if "{grant}" in fault.cure else ""
    cure = fault.cure.format(entry=f"DATABASES[{alias!r}]", grant=grant, command=command)
    return f"The database {alias!r} ({vendor}) {fault.meaning} ({text}). {cure}"


def _text_of(connection: BaseDatabaseWrapper, error: Exception) -> str:
    """Return what the server says, in one line, without the code and without secrets."""
    said = error.args[1] if len(error.args) == 2 and code_of(error) == error.args[0] else error
    text, entry = str(said), connection.settings_dict
    # libpq accepts a whole address in place of a name, and quotes one that it does not understand.
    name = str(entry.get("NAME") or "")
    for secret in (entry.get("PASSWORD"), name if re.search("://|=", name) else ""):
        text = text.replace(str(secret), "***") if secret else text
    return quoted(text)


def _grant(connection: BaseDatabaseWrapper, table: str) -> str:
    """Return the statement that gives the user the rights to a table, or to connect."""
    entry, quote = connection.settings_dict, connection.ops.quote_name
    if connection.vendor == "mysql":
        place = quote(table) if table else f"{quote(str(entry.get('NAME')))}.*"
        return f"GRANT SELECT, INSERT, UPDATE, DELETE ON {place} TO '{entry.get('USER')}'@'%';"
    user = quote(str(entry.get("USER")))
    if not table:
        return f"GRANT CONNECT ON DATABASE {quote(str(entry.get('NAME')))} TO {user};"
    return f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quote(table)} TO {user};"

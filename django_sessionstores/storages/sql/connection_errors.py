"""What keeps a database from being connected to or from storing, and the setting to look at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from django.db import DataError

from .lost_races import code_of

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

TOO_LARGE: Final = (
    "cannot store a session of this size. Store less in the session, or raise max_allowed_packet "
    "of the server if it is MySQL or MariaDB."
)
"""What follows the name of a database."""
_MYSQL_PACKET_TOO_LARGE: Final = 1153

_CAUSES: Final = (
    # The first match counts. PostgreSQL may speak another language, and then nothing matches.
    (
        "password|authentication|access denied|role .* does not exist|pg_hba",
        "['USER'] and ['PASSWORD']",
    ),
    (r"database .* does not exist|unknown database|unable to open database file", "['NAME']"),
    (r"\bssl\b|\btls\b|certificate", "['OPTIONS']"),
    (
        "refused|resolve|translate host|not known|time.?out|timed out|can't connect|unreachable",
        "['HOST'] and ['PORT']",
    ),
)
"""What the drivers say in English, and the parts of an entry of ``DATABASES`` to look at."""


def is_too_large(error: Exception) -> bool:
    """Return whether a statement failed because a value is larger than the database accepts."""
    if code_of(error) == _MYSQL_PACKET_TOO_LARGE:
        return True
    return isinstance(error, DataError) and "too big" in str(error)  # SQLite has no code for it.


def connection_error(connection: BaseDatabaseWrapper, error: Exception) -> str | None:
    """Return the message that no connection could be opened; ``None`` if an open one has failed.

    It quotes the driver, which has not been given a statement yet, so no data can be in its text.
    """
    if connection.connection is not None:
        return None
    text = " ".join(str(error).split()).rstrip(".")
    if connection.vendor == "sqlite":
        text = f"{text}: {connection.settings_dict['NAME']}"
    found = (parts for words, parts in _CAUSES if re.search(words, text, re.IGNORECASE))
    server = "" if connection.vendor == "sqlite" else ", and whether the server runs"
    return (
        f"The database {connection.alias!r} ({connection.vendor}) cannot be connected to "
        f"({type(error).__name__}: {text}). Look at "
        f"DATABASES[{connection.alias!r}]{next(found, '')}{server}."
    )

"""The language of programs: what each word of a line means.

The documentation shows these tables, and `programs.Program.check` refuses all other words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

STEPS: Final = {
    "2:x.put.a": "Request 2 of browser ``x`` begins, and stops before its first call. Its view is "
    "``put.a``.",
    "3:o.purge": "Request 3 is a call of an operator, who is ``o``.",
    "2": "Request 2 makes its next call, or reaches the end of its view.",
    "2*": "Request 2 makes all of its remaining calls.",
    "2-": "The next call of request 2 fails and has no effect. Only calls of a store can fail.",
    "2~": "The next call of request 2 takes effect, but its answer is lost.",
    "2!": "The process of request 2 dies.",
    "2%": "Request 2 is cancelled, and may still clean up.",
    ">2": "The response to request 2 arrives at its browser.",
    "+1001": "1001 seconds pass.",
    "evict": "The cache of ``cached_db`` loses all entries.",
    "away.STORE": "This store becomes unreachable.",
    "back.STORE": "The store is reachable again.",
    "full.STORE": "This store has no room. It can be read, and sessions can end.",
    "room.STORE": "The store has room again.",
    "begin.1": "A new process takes the place of process 1 of ``+workers``, which are 0 and 1. "
    "Requests that run go on in the old one.",
    "cut.1": "Process 1 of ``+workers`` cannot reach the cache.",
    "join.1": "It can reach the cache again.",
    "secret": "The site gets another ``SECRET_KEY``, and keeps the old one as a fallback.",
    "skew.2.50": "The clock of the server of request 2 is 50 milliseconds ahead.",
    "previous.x.1": "Browser ``x`` has a session of user 1 (0: nobody) in the previous backend, "
    "which ``+memory`` or ``+cookie`` gives the site.",
}
"""The steps, each by an example. Any word may stand for ``2``, such as ``a``."""
COMMANDS: Final = {each.partition(".")[0]: each.count(".") for each in STEPS if each[0].isalpha()}
"""The steps that are not about one request, with the number of their arguments."""

STORES: Final = {
    "memory": "The store of ``memory``.",
    "database": "The database of ``db`` and ``cached_db``.",
    "cache": "The cache of ``cache``, ``cached_db`` and ``cache_registry``.",
    "registry": "The registry of ``cache_registry`` and ``cookie_registry``, and of a storage of "
    "your own that cannot list sessions.",
    "storage": "The storage of your own.",
    "previous": "The previous backend, with ``+memory``.",
}
"""What stands for ``STORE``. A site has some of them."""

KEYS: Final = ("base", "a", "b", "c", "m", "nest")
USERS: Final = ("1", "2")
ORDERS: Final = ("first",)
BROWSER: Final = re.compile(r"(?!o$)[A-Za-z_]\w*", re.ASCII)

ARGUMENTS: Final = {
    "KEY": f"A key of the session: {', '.join(f'``{each}``' for each in KEYS)}. ``m`` is the one "
    "that ``+merge`` is about.",
    "PK": "User ``1`` or ``2``.",
    "ORDER": "``first``: the view checks the password before it reads the session, as a login page "
    "does.",
    "BROWSER": "A browser, which has any name but ``o``, such as ``x``.",
    "SECONDS": "A number of seconds.",
}
"""The arguments of views. Those in brackets may be left out."""

OPERATOR: Final = ("end", "delete_key", "end_all", "deactivate", "purge", "recheck", "wait")
"""What an operator may do. A browser may do the same, in a view."""

ENDS: Final = {
    "+save": "The view saves the session.",
    "+error": "The view raises an error.",
    "+404": "The view answers with status 404.",
}
"""What a view may do after its operation, in this order of the text."""

TRANSACTIONS: Final = {
    "@atomic": "The view runs in a transaction, which is committed.",
    "@rollback": "The transaction is rolled back.",
    "@again": "The transaction is rolled back, and the view then sets the key ``c``.",
    "@savepoint": "The view runs in a savepoint, which is rolled back. The transaction around it "
    "is committed.",
    "@manual": "Autocommit is off, and the view calls ``commit()``.",
    "@undone": "Autocommit is off, and the view calls ``rollback()``.",
}
"""The transactions in which a view may run. Only sync views run in transactions."""

OPTIONS: Final = {
    "+2step": "Stores rotate in two steps.",
    "+limit": "``MAX_SESSIONS`` is 2, and the oldest session ends.",
    "+refuse": "``MAX_SESSIONS`` is 2, and the login is refused.",
    "+idle": "``IDLE_TIMEOUT`` is set.",
    "+merge": "The site has a merge function that can fail.",
    "+memory": "The site has a previous backend with sessions in memory.",
    "+cookie": "The site has a previous backend with sessions in the cookie.",
    "+strict": "Responses that arrive late are not excused.",
    "+workers": "Two processes of ``cached_db`` share the cache and the database.",
}
"""The options of a site."""


def check_argument(name: str, value: str) -> None:
    """Raise ``ValueError`` if an argument of a view has a wrong value; the text names the right
    ones. ``name`` is one of `ARGUMENTS`."""
    words = {"KEY": KEYS, "PK": USERS, "ORDER": ORDERS}.get(name)
    if words is not None:
        check_word(value, words, name)
    elif name == "BROWSER" and not BROWSER.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a browser, such as 'x'.")
    elif name == "SECONDS" and not value.isdecimal():
        raise ValueError(f"{value!r} is not a number of seconds.")


def check_word(word: str, words: Iterable[str], kind: str) -> None:
    """Raise ``ValueError`` if a word is not one of ``words``; the text names them."""
    if word not in words:
        raise ValueError(f"{word!r} is not {kind}. There are: {', '.join(words)}.")

"""The options of the actions of ``manage.py sessions``."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.core.management.base import CommandParser

from . import selection

_ID = "a session id, or its first 6 characters or more"
_USER = "the username, email address or primary key"
_USER_ID = "the primary key, also of a user that was deleted"


def add_actions(parser: CommandParser) -> None:
    """Add all actions to the parser of the command, each with its options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, words: str, *, json: bool = True) -> Any:
        # The class is the one of the parser, see CommandParser.
        action = actions.add_parser(name, help=words, description=words)
        _add_general_options(action)
        if json:
            action.add_argument("--json", action="store_true", help="one JSON document")
        return action

    _add_list_options(add("list", "List live sessions, page by page."))
    shown = add("show", "Show one session, but not what is in it.")
    shown.add_argument("ids", nargs=1, metavar="ID", type=selection.id_prefix, help=_ID)
    add("stats", "Count the sessions, in one pass over all of them.")
    _add_end_options(add("end", "End sessions, which logs their users out.", json=False))
    cleared = add("clear", "End every session, and touch nothing else in the store.")
    _add_confirmation_options(cleared)
    emptied = add("clear-cache", "Remove all keys of a cache except those of sessions.")
    emptied.add_argument("alias", metavar="ALIAS", help="the cache's name in CACHES")
    _add_confirmation_options(emptied)
    removed = add("purge", "Remove expired sessions, as clearsessions does.", json=False)
    removed.add_argument("--dry-run", action="store_true", help="only count them")
    add("reindex", "Rebuild the index of sessions, if there is one.", json=False)
    _add_move_options(add("move", "Move all sessions from one engine to another."))
    add("doctor", "Show how sessions are stored, and what is wrong. Exits with 1 on problems.")


def _add_general_options(parser: ArgumentParser) -> None:
    """Accept Django's own options after the name of the action as well as before it."""
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), default=SUPPRESS)
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, default=SUPPRESS, help=SUPPRESS)
    for flag in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(flag, action="store_true", default=SUPPRESS, help=SUPPRESS)


def _add_confirmation_options(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--no-input", "--noinput", action="store_false", dest="interactive", help="do not ask"
    )
    parser.set_defaults(usage_error=parser.error)


def _add_list_options(parser: ArgumentParser) -> None:
    users = parser.add_mutually_exclusive_group()
    users.add_argument(
        "--user", metavar="USER", type=selection.user, help=f"only of this user: {_USER}"
    )
    users.add_argument(
        "--user-id", metavar="PK", type=selection.user, help=f"only of this user: {_USER_ID}"
    )
    users.add_argument(
        "--logged-in", action="store_true", default=None, help="only of logged-in users"
    )
    users.add_argument(
        "--anonymous",
        action="store_false",
        dest="logged_in",
        default=None,
        help="only of visitors",
    )
    parser.add_argument(
        "--idle-since",
        metavar="WHEN",
        type=selection.moment,
        help="only without activity for 30m, 12h, 7d, 2w, or since a date",
    )
    parser.add_argument(
        "--ip", type=selection.address, help="only last used from this IP address or network"
    )
    parser.add_argument(
        "--expired", action="store_true", help="instead, the expired sessions not yet purged"
    )
    parser.add_argument(
        "--limit", metavar="N", type=selection.positive_number, default=50, help="at most N (50)"
    )
    parser.add_argument("--cursor", default="", help="continue where the previous page ended")


def _add_end_options(parser: ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", type=selection.id_prefix, help=_ID)
    users = parser.add_mutually_exclusive_group()
    users.add_argument(
        "--user", metavar="USER", type=selection.user, help=f"all of this user: {_USER}"
    )
    users.add_argument(
        "--user-id", metavar="PK", type=selection.user, help=f"all of this user: {_USER_ID}"
    )
    parser.add_argument(
        "--ip",
        type=selection.address,
        help="all last used from this IP address or network, of the user if you name one",
    )
    parser.add_argument(
        "--but", metavar="ID", type=selection.id_prefix, help="with a user: not this one"
    )
    parser.add_argument("--all", action="store_true", help="all of all users and visitors")
    _add_confirmation_options(parser)


def _add_move_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", metavar="ENGINE", required=True, help="the previous SESSION_ENGINE"
    )
    parser.add_argument(
        "--from-cache", metavar="ALIAS", help="its SESSION_CACHE_ALIAS, if that was different"
    )
    parser.add_argument("--to", dest="target", metavar="ENGINE", help="SESSION_ENGINE unless given")
    parser.add_argument(
        "--batch",
        metavar="N",
        type=selection.positive_number,
        default=500,
        help="read N at once (500)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

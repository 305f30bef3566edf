"""The sessions that an operator selects on the command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ..core import clock
from ..core.client import normal_ip, normal_network
from ..core.lifetime import utc_datetime
from ..core.records import ID_LENGTH, LEAST_OF_ID, is_typed_id
from ..exceptions import CannotList
from ..inventory import Inventory, SessionInfo

_DURATION: Final = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


# --- Types of arguments, for argparse ------------------------------------------------------


def id_prefix(text: str) -> str:
    """Return a session id or its beginning, in lower case."""
    if not is_typed_id(text.lower()):
        # The message does not repeat the text, which may be a session key.
        raise argparse.ArgumentTypeError(
            f"not a session id or its beginning: {LEAST_OF_ID} to {ID_LENGTH} of 0-9 and a-f"
        )
    return text.lower()


def user(text: str) -> str:
    """Return a primary key or username, as it was typed.

    Without a locale, as in a cron job, Python cannot decode other characters than ASCII, and has
    surrogates in their place. They are nearly always UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeError):
            return os.fsencode(text).decode()
    return text


def positive_number(text: str) -> int:
    """Return a whole number of 1 or more."""
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def address(text: str) -> str:
    """Return an IP address as the middleware writes it, or a network of addresses."""
    ip = normal_ip(text) or normal_network(text)
    if not ip:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an IP address, the beginning of one, or a network"
        )
    return ip


def moment(text: str) -> datetime:
    """Return the moment that a duration before now or a date means.

    A date may have a time, in the project's time zone unless it names another one.
    """
    try:
        if found := _DURATION.fullmatch(text):
            return utc_datetime(clock.now()) - timedelta(**{_UNITS[found[2]]: int(found[1])})
        parsed = parse_datetime(text)
        if parsed is not None:
            return timezone.make_aware(parsed) if timezone.is_naive(parsed) else parsed
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a duration such as 30m, 12h, 7d or 2w, nor a date such as 2026-11-20"
    )


# --- Sessions -------------------------------------------------------------------------------


def find(inventory: Inventory, prefixes: Sequence[str]) -> list[SessionInfo]:
    """Return the live sessions with these ids or beginnings of ids, each once.

    Raises ``CommandError``, which names every prefix that fits no session or several.
    """
    if not inventory.storage.authoritative:
        raise CommandError(
            f"Sessions in {inventory.storage.describe()} cannot be found or ended: only the "
            "browsers have them. Set SESSIONSTORES['REGISTRY'], for example to 'db'."
        )
    found: dict[str, dict[str, SessionInfo]] = {prefix: {} for prefix in prefixes}
    for id_, match in inventory.get_many(key for key in found if len(key) == ID_LENGTH).items():
        found[id_][id_] = match
    _find_by_prefix(inventory, {key: found[key] for key in found if len(key) < ID_LENGTH})
    if problems := [text for each in found.items() if (text := _problem(*each))]:
        raise CommandError("\n".join(problems))
    return list({id_: each for matches in found.values() for id_, each in matches.items()}.values())


def _find_by_prefix(inventory: Inventory, found: dict[str, dict[str, SessionInfo]]) -> None:
    if not found:
        return
    try:
        for each in inventory.iterate():
            for prefix, matches in found.items():
                if each.id.startswith(prefix):
                    matches[each.id] = each
    except CannotList as error:
        raise CommandError(f"{error} Full ids of {ID_LENGTH} characters need no list.") from error


def _problem(prefix: str, matches: dict[str, SessionInfo]) -> str:
    if not matches:
        return f"There is no live session whose id begins with {prefix}."
    if len(matches) > 1:
        return f"{len(matches)} ids begin with {prefix}: {', '.join(sorted(matches))}."
    return ""

"""Cookie values that are too long for one cookie: they are split over several and joined again.

The first cookie has the number of parts and the first part, ``"3.<part>"``. The other parts are in
``<name>-1`` and ``<name>-2``. A value that fits into one cookie is sent as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LIMIT: Final = 4096
"""The bytes that a browser accepts for the name and the value of a cookie together."""

MOST_PARTS: Final = 16
"""The maximum number of parts: 64 kB, of which servers accept a fraction. It also limits how many
headers a response has for a client that sends invented parts."""

_PREFIX: Final = re.compile(r"([2-9]|1[0-6])\.", re.ASCII)


def split(name: str, value: str) -> dict[str, str]:
    """Return the cookies for a value, by name, in the order of the parts.

    The value must consist of characters that a cookie can have without quoting. Raises
    ``ValueError`` if `MOST_PARTS` cookies cannot hold the value.
    """
    if len(value) <= capacity(name, 1):
        return {name: value}
    for most in range(2, MOST_PARTS + 1):
        if len(value) <= capacity(name, most):
            break
    else:
        raise ValueError(f"A value of {len(value)} characters takes too many cookies.")
    cookies, rest = {}, f"{most}.{value}"
    for each in _names(name, most):
        size = LIMIT - len(each)
        cookies[each], rest = rest[:size], rest[size:]
    return cookies


def join(name: str, cookies: Mapping[str, str]) -> str:
    """Return the value in the cookies, one of which must have this name.

    A missing part is left out: the value itself must show that it is incomplete.
    """
    value = cookies[name]
    if (prefix := _PREFIX.match(value)) is None:
        return value
    return value[prefix.end() :] + "".join(cookies[part] for part in parts(name, cookies))


def parts(name: str, cookies: Mapping[str, str]) -> list[str]:
    """Return the names of the cookies that have the parts after the first one, in order.

    Only the first part says how many there are. If it does not, a cookie with such a name may be
    the project's own, and `join` would not read it.
    """
    if (prefix := _PREFIX.match(cookies.get(name, ""))) is None:
        return []
    return [part for part in _names(name, int(prefix[1]))[1:] if part in cookies]


def capacity(name: str, most: int) -> int:
    """Return the length of the longest value that `split` puts into ``most`` cookies or fewer."""
    if most <= 1:
        return LIMIT - len(name)
    return sum(LIMIT - len(each) for each in _names(name, most)) - len(f"{most}.")


def _names(name: str, number: int) -> list[str]:
    # After the name, and not before it, so that a prefix such as __Host- applies to the parts too.
    return [name, *(f"{name}-{i}" for i in range(1, number))]

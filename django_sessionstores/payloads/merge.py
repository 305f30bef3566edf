"""The three-way merge of the changes of two requests to one session. Neither loses its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..core.login_keys import USER_BACKEND, USER_HASH, USER_ID
from ..core.records import SecretDict
from .serializers import TypedSerializer

MergeFunction = Callable[[Any, Any, Any], Any]
"""Is called with the values of one key (base, mine, theirs); `MISSING` stands for a missing key."""
Equality = Callable[[Any, Any], bool]
"""Returns whether two values of a key are the same."""


class _Missing:
    """The value of a missing key. A merge function gets it, and may return it."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing()

AUTHENTICATED_AT: Final = "_authenticated_at"
"""The key of the session data for the time of the last login, in milliseconds since the epoch."""
AUTH_KEYS: Final = frozenset({USER_ID, USER_BACKEND, USER_HASH, AUTHENTICATED_AT})
"""The keys of a login. They belong together: a merge must not mix the keys of two logins."""


_dumps: Final = TypedSerializer().dumps
_PLAIN: Final = frozenset({str, int, bool, bytes, type(None)})
"""The types whose equal values are stored as the same bytes."""


def is_same(a: object, b: object) -> bool:
    """Return whether two values are the same to a session, which stores them as the same bytes.

    ``1``, ``1.0`` and ``True`` are three values, and so are ``0.0`` and ``-0.0``, or ``1.1`` and
    ``1.10`` as ``Decimal``. NaN is the same as itself. The order of a dict counts, that of a set
    does not. A subclass is the same as the type that it is stored as.
    """
    if a is b:
        return True
    if type(a) in _PLAIN and type(a) is type(b):
        return a == b
    if a is MISSING or b is MISSING:
        return False
    try:
        return _dumps(a) == _dumps(b)
    except Exception:  # noqa: BLE001 - only another serializer keeps them
        return _is_equal(a, b)


def _is_equal(a: Any, b: Any) -> bool:
    """Return whether two values that the package's serializer does not keep are the same."""
    if type(a) is not type(b):
        return False
    try:
        if isinstance(a, dict):
            return len(a) == len(b) and all(map(is_same, _keys_and_values(a), _keys_and_values(b)))
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(is_same, a, b))
        return bool(a == b)
    except Exception:  # noqa: BLE001 - a class of the project may raise anything
        return False


def _keys_and_values(items: Mapping[Any, Any]) -> Iterator[Any]:
    for key, value in items.items():
        yield key
        yield value


def merge(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    functions: Mapping[str, MergeFunction] | None = None,
    is_same: Equality = is_same,
) -> SecretDict:
    """Return ``theirs`` with my changes and deletions since ``base``.

    If both sides have changed a key, it gets the value of the later save, which is mine, unless
    ``functions`` has a merge function for it. The auth keys count as one key. ``is_same`` compares
    two values of a key.
    """
    # A merge function may raise, and error reports show local variables.
    base, mine, merged = SecretDict(base), SecretDict(mine), SecretDict(theirs)
    theirs = SecretDict(theirs)
    changed = dict.fromkeys(_changed_keys(base, mine, is_same))
    if not AUTH_KEYS.isdisjoint(changed):
        if _is_outdated_login(base, mine, theirs):
            changed = {key: None for key in changed if key not in AUTH_KEYS}
        else:
            changed |= dict.fromkeys(AUTH_KEYS)
    for key in changed:
        if functions and key in functions and not _is_unchanged(key, base, theirs, is_same):
            merged[key] = functions[key](*(each.get(key, MISSING) for each in (base, mine, theirs)))
        else:
            merged[key] = mine.get(key, MISSING)
        if merged[key] is MISSING:
            del merged[key]
    return merged


def _is_outdated_login(
    base: Mapping[Any, Any], mine: Mapping[Any, Any], theirs: Mapping[Any, Any]
) -> bool:
    """Return whether I have signed the same user in with the password that they have changed."""
    same_user = all(_is_unchanged(USER_ID, base, each) for each in (mine, theirs))
    return (
        same_user
        and _is_unchanged(USER_HASH, base, mine)
        and not _is_unchanged(USER_HASH, base, theirs)
    )


def changes(
    base: Mapping[Any, Any], mine: Mapping[Any, Any], is_same: Equality = is_same
) -> Iterator[tuple[Any, SecretDict]]:
    """Yield each changed key, and its change from ``base`` to ``mine`` as data for a serializer."""
    for key in _changed_keys(base, mine, is_same):
        change = {"set": {key: mine[key]}} if key in mine else {"deleted": [key]}
        yield key, SecretDict(change)


def apply(change: Mapping[str, Any], data: dict[Any, Any]) -> None:
    """Apply a change that `changes` has returned to ``data``."""
    data.update(change.get("set", {}))
    for key in change.get("deleted", ()):
        data.pop(key, None)


def _changed_keys(base: Mapping[Any, Any], mine: Mapping[Any, Any], is_same: Equality) -> list[Any]:
    """Return the keys whose values differ."""
    return [key for key in {**base, **mine} if not _is_unchanged(key, base, mine, is_same)]


def _is_unchanged(
    key: Any, base: Mapping[Any, Any], other: Mapping[Any, Any], is_same: Equality = is_same
) -> bool:
    return is_same(base.get(key, MISSING), other.get(key, MISSING))

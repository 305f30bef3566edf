"""The package's own serializer: fast, safe, and the same types out as in."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

from ..core.records import SecretDict
from .deep_calls import call_in_thread, with_enough_stack

# Extension codes of MessagePack, part of the stored format: never reuse or renumber one.
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _SET, _FROZENSET = range(1, 9)
_TUPLE, _INT, _DICT, SURROGATES = range(9, 13)

MAX_DEPTH: Final = 400
"""How many containers may be inside each other, the session's own dict included.

Writing and reading take two levels of Python's stack for each of them, and Python allows 1,000 by
default. So what was written can be read, see `deep_calls`.
"""

_FOLD: Final = "f"
"""Stands behind a naive moment with ``fold=1``, which ISO 8601 cannot say."""

_encode = msgspec.msgpack.Encoder().encode
_NATIVE: Final = frozenset({bool, type(None), float, bytes})
_NATIVE_WITH_INT_AND_STR: Final = _NATIVE | {int, str}
_MAP_KEYS: Final = frozenset({str, int, bytes})


class TypedSerializer:
    """Serialises session data as MessagePack, with extensions for the types that MessagePack lacks.

    It keeps str, int, float, bool, None, bytes, list, dict (with keys of any of the hashable types
    here), tuple, set, frozenset, datetime, date, time, timedelta, Decimal and UUID. A value of a
    subclass of one of them comes back as that type. Any other value raises ``TypeError``, because
    it would come back as something else. So does a value with more than `MAX_DEPTH` containers
    inside each other. Pickle is never used.

    A text may have surrogates, which UTF-8 cannot encode: a half of an emoji from JSON or a
    truncated text, or a file name that is not in UTF-8.

    It follows the protocol of ``SESSION_SERIALIZER``, so that setting can name it, too.
    """

    def dumps(self, obj: Any) -> bytes:
        try:
            return _dump(obj, 0)
        except RecursionError:
            pass
        return call_in_thread(_dump, obj, 0)

    def dumps_change(self, change: Any) -> bytes:
        """Return the bytes of a dict in which each value is one level deeper than in a session."""
        return with_enough_stack(_dump)(change, -1)

    def loads(self, data: bytes) -> Any:
        try:
            return _decoder.decode(data)
        except RecursionError:
            pass
        return call_in_thread(_decoder.decode, data)


def _dump(value: Any, depth: int) -> bytes:
    try:
        return _encode(value if _is_native(value, depth) else _to_plain(value, depth))
    except (OverflowError, UnicodeEncodeError):  # An int beyond 64 bits, or a surrogate.
        return _encode(_to_plain(value, depth))


def _is_native(value: Any, depth: int) -> bool:
    """Return whether MessagePack keeps all of the value as it is, which is so in most sessions.

    ``depth`` is the number of containers that the value is in. Texts with surrogates and large
    numbers are not looked for, because MessagePack's encoder finds them.

    This takes a quarter of the time of `_to_plain`, which makes a copy. The time matters: each
    request that reads its session serialises it, to find out whether it has changed.
    """
    kind = type(value)
    if kind is dict or kind is SecretDict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return False
    if depth >= MAX_DEPTH:
        raise _too_deep()
    depth += 1
    # Not all(), because a generator costs more than this check.
    for item in items:
        if type(item) not in _NATIVE_WITH_INT_AND_STR and not _is_native(item, depth):
            return False
    return True


def _deeper(depth: int) -> int:
    """Return the depth inside a container. Raises ``TypeError`` if that is too deep."""
    if depth >= MAX_DEPTH:
        raise _too_deep()
    return depth + 1


def _too_deep() -> TypeError:
    return TypeError(
        f"the value contains itself, or has more than {MAX_DEPTH} containers inside each other"
    )


def _to_plain(value: Any, depth: int) -> Any:
    """Return the value in types that MessagePack keeps as they are.

    ``depth`` is the number of containers that the value is in.
    """
    kind = type(value)
    if kind in _NATIVE:
        return value
    if kind is str:
        return value if value.isascii() else _plain_text(value)
    convert = _CONVERT_CONTAINER.get(kind)
    if convert is not None:
        return convert(value, _deeper(depth))
    convert_scalar = _CONVERT.get(kind)
    if convert_scalar is not None:
        return convert_scalar(value)
    return _plain_subclass(kind, value, depth)


def _plain_subclass(kind: type, value: Any, depth: int) -> Any:
    for base, convert in _CONVERT_CONTAINER.items():
        if issubclass(kind, base):
            return convert(value, _deeper(depth))
    for base, convert_scalar in _CONVERT.items():
        if issubclass(kind, base):
            return convert_scalar(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not serializable")


def _plain_list(values: Any, depth: int) -> list[Any]:
    # Not a comprehension, which takes another level of the stack before Python 3.12.
    return [*map(_to_plain, values, repeat(depth))]


def _plain_tuple(values: Any, depth: int) -> Ext:
    return Ext(_TUPLE, _encode([*map(_to_plain, values, repeat(depth))]))


def _plain_set(values: Any, depth: int) -> Ext:
    return Ext(_SET, _encode_set([*map(_to_plain, values, repeat(depth))]))


def _plain_frozenset(values: Any, depth: int) -> Ext:
    return Ext(_FROZENSET, _encode_set([*map(_to_plain, values, repeat(depth))]))


def _encode_set(parts: list[Any]) -> bytes:
    # Sorted, so that equal sets give equal bytes.
    return _encode([*map(msgspec.Raw, sorted(map(_encode, parts)))])


def _plain_dict(value: dict[Any, Any], depth: int) -> dict[Any, Any] | Ext:
    if type(value) is not dict:
        value = dict(value.items())  # As JSON does: a QueryDict has one value of each list.
    items = map(_to_plain, value.values(), repeat(depth))
    if all(map(_is_map_key, value)):
        return dict(zip(value, items, strict=True))
    # An extension cannot be a key of a MessagePack map.
    keys = map(_to_plain, value, repeat(depth))
    return Ext(_DICT, _encode([*chain.from_iterable(zip(keys, items, strict=True))]))


def _is_map_key(key: Any) -> bool:
    kind = type(key)
    if kind is str:
        return key.isascii() or _is_utf8(key)
    return kind in _MAP_KEYS and (kind is not int or _fits(key))


def _plain_text(value: str) -> str | Ext:
    # Not str(), which a subclass may override.
    text = str.__str__(value)
    return text if _is_utf8(text) else Ext(SURROGATES, text.encode("utf-8", "surrogatepass"))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_converter(code: int, convert: Callable[[Any], str]) -> Callable[[Any], Ext]:
    return lambda value: Ext(code, convert(value).encode())


def _plain_moment(code: int, kind: Any) -> Callable[[Any], Ext]:
    """Return a function that converts a datetime or time.

    If an hour comes twice, because the clock is put back, ``fold`` says that it is the second one.
    A moment with an offset says so itself.
    """

    def convert(value: Any) -> Ext:
        end = _FOLD if value.fold and value.tzinfo is None else ""
        return Ext(code, f"{kind.isoformat(value)}{end}".encode())

    return convert


def _revive_moment(kind: Any) -> Callable[[bytes], Any]:
    def revive(data: bytes) -> Any:
        text = data.decode()
        moment = kind.fromisoformat(text.removesuffix(_FOLD))
        return moment.replace(fold=1) if text.endswith(_FOLD) else moment

    return revive


def _fits(value: int) -> bool:
    # MessagePack ends at 64 bits.
    return -(2**63) <= value < 2**64


def _plain_int(value: int) -> int | Ext:
    return int(value) if _fits(value) else Ext(_INT, str(int(value)).encode())


def _plain_timedelta(value: datetime.timedelta) -> Ext:
    return Ext(_TIMEDELTA, _encode((value.days, value.seconds, value.microseconds)))


# Looked up by exact type, and for a subclass in this order: datetime comes before date, its base.
# A container is looked up first.
_CONVERT: Final[dict[type, Callable[[Any], Any]]] = {
    int: _plain_int,
    str: _plain_text,
    float: float,
    bytes: bytes,
    datetime.datetime: _plain_moment(_DATETIME, datetime.datetime),
    datetime.date: _text_converter(_DATE, datetime.date.isoformat),
    datetime.time: _plain_moment(_TIME, datetime.time),
    datetime.timedelta: _plain_timedelta,
    decimal.Decimal: _text_converter(_DECIMAL, str),
    uuid.UUID: lambda value: Ext(_UUID, value.bytes),
}

_CONVERT_CONTAINER: Final[dict[type, Callable[[Any, int], Any]]] = {
    dict: _plain_dict,
    list: _plain_list,
    tuple: _plain_tuple,
    set: _plain_set,
    frozenset: _plain_frozenset,
}


def _dict_of_pairs(parts: list[Any]) -> dict[Any, Any]:
    each = iter(parts)
    return dict(zip(each, each, strict=True))


_REVIVE_CONTAINER: Final[dict[int, Callable[[list[Any]], Any]]] = {
    _SET: set,
    _FROZENSET: frozenset,
    _TUPLE: tuple,
    _DICT: _dict_of_pairs,
}

_REVIVE: Final[dict[int, Callable[[bytes], Any]]] = {
    _DATETIME: _revive_moment(datetime.datetime),
    _DATE: lambda data: datetime.date.fromisoformat(data.decode()),
    _TIME: _revive_moment(datetime.time),
    _TIMEDELTA: lambda data: datetime.timedelta(*_decoder.decode(data)),
    _DECIMAL: lambda data: decimal.Decimal(data.decode()),
    _UUID: lambda data: uuid.UUID(bytes=data),
    _INT: lambda data: int(data.decode()),
    SURROGATES: lambda data: data.decode("utf-8", "surrogatepass"),
}


def _revive(code: int, data: memoryview) -> Any:
    make = _REVIVE_CONTAINER.get(code)
    if make is not None:
        # Called here, and not in a function of its own, which would take a level of the stack.
        return make(_decoder.decode(data))
    try:
        revive = _REVIVE[code]
    except KeyError:
        raise ValueError(f"unknown extension {code}") from None
    return revive(bytes(data))


_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ext_hook=_revive)

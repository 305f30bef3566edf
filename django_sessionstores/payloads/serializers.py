"""The package's own serializer: fast, safe, and the same types out as in."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

# Extension codes of MessagePack, part of the stored format: never reuse or renumber one.
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _SET, _FROZENSET, _TUPLE, _INT, _DICT = range(
    1, 12
)

_encode = msgspec.msgpack.Encoder().encode
_NATIVE: Final = frozenset({str, bool, type(None), float, bytes})
_NATIVE_WITH_INT: Final = _NATIVE | {int}
_MAP_KEYS: Final = frozenset({str, int, bytes})


class TypedSerializer:
    """Serialises session data as MessagePack, with extensions for the types that MessagePack lacks.

    It keeps str, int, float, bool, None, bytes, list, dict (with keys of any of the hashable types
    here), tuple, set, frozenset, datetime, date, time, timedelta, Decimal and UUID. A value of a
    subclass of one of them comes back as that type. Any other value raises ``TypeError``, because
    it would come back as something else. Pickle is never used.

    It follows the protocol of ``SESSION_SERIALIZER``, so that setting can name it, too.
    """

    def dumps(self, obj: Any) -> bytes:
        try:
            try:
                return _encode(obj if _is_native(obj) else _to_plain(obj))
            except OverflowError:  # An int beyond MessagePack's 64 bits.
                return _encode(_to_plain(obj))
        except RecursionError:
            raise TypeError("the value contains itself, or is nested too deeply") from None

    def loads(self, data: bytes) -> Any:
        return _decoder.decode(data)


def _is_native(value: Any) -> bool:
    """Return whether MessagePack keeps all of the value as it is, which is so in most sessions.

    This takes a quarter of the time of `_to_plain`, which makes a copy. The time matters: each
    request that reads its session serialises it, to find out whether it has changed.
    """
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return False
    # Not all(), because a generator costs more than this check.
    for item in items:  # noqa: SIM110
        if type(item) not in _NATIVE_WITH_INT and not _is_native(item):
            return False
    return True


def _to_plain(value: Any) -> Any:
    """Return the value in types that MessagePack keeps as they are."""
    kind = type(value)
    if kind in _NATIVE:
        return value
    convert = _CONVERT.get(kind) or _converter_of_base(kind)
    return convert(value)


def _converter_of_base(kind: type) -> Callable[[Any], Any]:
    for base, convert in _CONVERT.items():
        if issubclass(kind, base):
            return convert
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not serializable")


def _sequence_converter(code: int) -> Callable[[Any], Ext]:
    return lambda values: Ext(code, _encode([_to_plain(value) for value in values]))


def _set_converter(code: int) -> Callable[[Any], Ext]:
    # Sorted, so that equal sets give equal bytes.
    return lambda values: Ext(
        code, _encode([msgspec.Raw(part) for part in sorted(_encode(_to_plain(v)) for v in values)])
    )


def _text_converter(code: int, convert: Callable[[Any], str]) -> Callable[[Any], Ext]:
    return lambda value: Ext(code, convert(value).encode())


def _fits(value: int) -> bool:
    # MessagePack ends at 64 bits.
    return -(2**63) <= value < 2**64


def _plain_int(value: int) -> int | Ext:
    return int(value) if _fits(value) else Ext(_INT, str(int(value)).encode())


def _plain_timedelta(value: datetime.timedelta) -> Ext:
    return Ext(_TIMEDELTA, _encode((value.days, value.seconds, value.microseconds)))


def _is_map_key(key: Any) -> bool:
    return type(key) in _MAP_KEYS and (type(key) is not int or _fits(key))


def _plain_dict(value: dict[Any, Any]) -> dict[Any, Any] | Ext:
    if all(type(key) is str for key in value) or all(map(_is_map_key, value)):
        return {key: item if type(item) is str else _to_plain(item) for key, item in value.items()}
    # An extension cannot be a key of a MessagePack map.
    return Ext(_DICT, _encode([_to_plain(part) for pair in value.items() for part in pair]))


def _revive_dict(data: bytes) -> dict[Any, Any]:
    parts = iter(_decoder.decode(data))
    return dict(zip(parts, parts, strict=True))


# Looked up by exact type, and for a subclass in this order: datetime comes before date, its base.
_CONVERT: Final[dict[type, Callable[[Any], Any]]] = {
    int: _plain_int,
    dict: _plain_dict,
    list: lambda values: [_to_plain(value) for value in values],
    str: lambda value: str.__str__(value),
    float: float,
    bytes: bytes,
    tuple: _sequence_converter(_TUPLE),
    set: _set_converter(_SET),
    frozenset: _set_converter(_FROZENSET),
    datetime.datetime: _text_converter(_DATETIME, datetime.datetime.isoformat),
    datetime.date: _text_converter(_DATE, datetime.date.isoformat),
    datetime.time: _text_converter(_TIME, datetime.time.isoformat),
    datetime.timedelta: _plain_timedelta,
    decimal.Decimal: _text_converter(_DECIMAL, str),
    uuid.UUID: lambda value: Ext(_UUID, value.bytes),
}

_REVIVE: Final[dict[int, Callable[[bytes], Any]]] = {
    _DATETIME: lambda data: datetime.datetime.fromisoformat(data.decode()),
    _DATE: lambda data: datetime.date.fromisoformat(data.decode()),
    _TIME: lambda data: datetime.time.fromisoformat(data.decode()),
    _TIMEDELTA: lambda data: datetime.timedelta(*_decoder.decode(data)),
    _DECIMAL: lambda data: decimal.Decimal(data.decode()),
    _UUID: lambda data: uuid.UUID(bytes=data),
    _SET: lambda data: set(_decoder.decode(data)),
    _FROZENSET: lambda data: frozenset(_decoder.decode(data)),
    _TUPLE: lambda data: tuple(_decoder.decode(data)),
    _INT: lambda data: int(data.decode()),
    _DICT: _revive_dict,
}


def _revive(code: int, data: memoryview) -> Any:
    try:
        revive = _REVIVE[code]
    except KeyError:
        raise ValueError(f"unknown extension {code}") from None
    return revive(bytes(data))


_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ext_hook=_revive)

"""Values with many containers inside each other: what could be saved is read, wherever a view is.

Reading one takes hundreds of levels of Python's stack, and a view may be called so deep on the
stack that too few of them are left.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from django.contrib.sessions.serializers import JSONSerializer
from django.test import override_settings

from django_sessionstores.exceptions import UnserializableValue
from django_sessionstores.payloads import deep_calls
from django_sessionstores.payloads.codec import Codec, KeyRing
from django_sessionstores.payloads.compact import compact, expand
from django_sessionstores.payloads.serializers import MAX_DEPTH, TypedSerializer
from tests.payloads.test_types import load, stored

T = TypeVar("T")
JSON = "django.contrib.sessions.serializers.JSONSerializer"

WRAP: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "int keys": lambda value: {1: value},
    "mixed keys": lambda value: {None: value},
}
LEFT = 250
"""Levels of the stack that are left to a view, enough for any client of a store."""


def nested(kind: str, depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = WRAP[kind](value)
    return value


def deep_on_the_stack(call: Callable[[], T], left: int = LEFT) -> T:
    """Call it where only so many levels of the stack are left."""
    used, frame = 0, sys._getframe()
    while frame is not None:
        used, frame = used + 1, frame.f_back  # type: ignore[assignment]

    def descend(levels: int) -> T:
        return call() if levels <= 0 else descend(levels - 1)

    return descend(sys.getrecursionlimit() - used - left)


@pytest.mark.parametrize("kind", WRAP)
def test_a_deep_value_is_kept_wherever_the_view_is(engine: Any, kind: str) -> None:
    """Saved and read with an empty stack and with a full one, in any combination."""
    value = nested(kind, MAX_DEPTH - 1)

    def save() -> str:
        return stored(engine, value=value, x=1)

    for key in (save(), deep_on_the_stack(save)):
        assert load(engine, key).keys() == {"value", "x"}
        read = deep_on_the_stack(lambda: engine.SessionStore(key)["value"])  # noqa: B023
        assert TypedSerializer().dumps(read) == TypedSerializer().dumps(value)


@pytest.mark.authoritative
@pytest.mark.parametrize("kind", ["list", "tuple"])
@pytest.mark.parametrize("is_deep", [True, False], ids=["deep", "shallow"])
def test_two_views_change_a_session_with_a_deep_value(
    engine: Any, kind: str, is_deep: bool
) -> None:
    """Neither change is lost, and the deep value does not count as a change."""
    session = engine.SessionStore()
    session.update({"value": nested(kind, MAX_DEPTH - 1), "x": 1, "y": 1})
    session.save()

    def change() -> str:
        one, two = (engine.SessionStore(session.session_key) for _ in range(2))
        one["value"] = nested(kind, MAX_DEPTH - 2)
        two["x"] = 2
        assert not engine.SessionStore(session.session_key).modified
        one.save()
        two.save()
        return str(two.session_key)

    key = deep_on_the_stack(change) if is_deep else change()
    data = load(engine, key)
    assert (data["x"], data["y"]) == (2, 1)
    assert TypedSerializer().dumps(data["value"]) == TypedSerializer().dumps(
        nested(kind, MAX_DEPTH - 2)
    )


def test_the_deepest_value_can_be_changed(engine: Any) -> None:
    """A registry stores the change, in which a value is one level deeper than in the session."""
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    session["value"] = nested("list", MAX_DEPTH - 1)
    session.save()
    session["value"].append(1)
    session.save()
    assert len(load(engine, session.session_key)["value"]) == 2


@pytest.mark.parametrize("kind", WRAP)
@pytest.mark.parametrize("is_deep", [True, False], ids=["deep", "shallow"])
def test_what_is_too_deep_is_refused(engine: Any, kind: str, is_deep: bool) -> None:
    """When it is saved, by name; the stored session stays whole."""
    key = stored(engine, color="blue")
    session = engine.SessionStore(key)
    session["culprit"] = nested(kind, MAX_DEPTH)

    def refused() -> None:
        with pytest.raises(UnserializableValue, match=r"session\['culprit'\].*400 containers"):
            session.save()

    if is_deep:
        deep_on_the_stack(refused)
    else:
        refused()
    assert load(engine, key) == {"color": "blue"}


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.engines("memory", "file", "db:sqlite", "cookie:sqlite")
def test_the_same_with_djangos_serializer(engine: Any, kind: str) -> None:
    """It has no limit but that of the stack."""
    with override_settings(SESSION_SERIALIZER=JSON):
        key = stored(engine, value=nested(kind, 450))

        def change() -> Any:
            session = engine.SessionStore(key)
            session["x"] = 1
            session.save()
            return engine.SessionStore(session.session_key).load()

        data = deep_on_the_stack(change)
        assert data.keys() == {"value", "x"}
        assert json.dumps(data["value"]) == json.dumps(nested(kind, 450))
        with pytest.raises(UnserializableValue, match=r"session\['culprit'\]"):
            stored(engine, culprit=nested(kind, 100_000))


def test_one_compact_form() -> None:
    """The compact form of a cookie is made and undone there as well."""
    data = TypedSerializer().dumps({"a": nested("list", MAX_DEPTH - 1), "b": "b" * 500})
    short = compact(data)
    assert short is not None
    assert deep_on_the_stack(lambda: compact(data), 60) == short
    assert deep_on_the_stack(lambda: expand(memoryview(short), 10**6), 60) == data


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="C code does not use Python's stack")
@pytest.mark.parametrize("serializer", [TypedSerializer, JSONSerializer])
def test_a_full_stack_is_not_a_damaged_session(
    monkeypatch: pytest.MonkeyPatch, serializer: type[Any]
) -> None:
    """A session that reads as empty would be replaced by the next save."""
    codec = Codec(KeyRing(["secret"]), {1: serializer()}, 1)
    snapshot = codec.serialize({"a": nested("list", MAX_DEPTH - 1)})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RecursionError, match="no stack is left"):
        deep_on_the_stack(lambda: codec.deserialize(snapshot))


def test_errors_come_back_from_the_thread() -> None:
    """The caller gets the error that the call raised. Data that exceeds a whole stack is
    refused."""

    def call(error: type[Exception]) -> None:
        if threading.current_thread() is threading.main_thread():
            raise RecursionError
        raise error("reason")

    with pytest.raises(LookupError, match="reason"):
        deep_calls.with_enough_stack(call)(LookupError)
    with pytest.raises(ValueError, match="nested too deeply"):
        deep_calls.with_enough_stack(call)(RecursionError)

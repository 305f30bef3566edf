"""What goes into a session comes out of it: types, lifetimes, sizes, and strange cookies."""

import collections
import datetime
import decimal
import enum
import json
import os
import pickle
import uuid
from typing import Any

import pytest
from django.contrib.sessions.serializers import JSONSerializer
from django.test import Client, override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.conf import codec, key_ring
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import SecretDict
from django_sessionstores.exceptions import PayloadTooLarge, UnserializableValue
from django_sessionstores.payloads.codec import Codec, KeyRing, Snapshot
from django_sessionstores.payloads.merge import changes, is_same, merge
from django_sessionstores.payloads.serializers import TypedSerializer
from django_sessionstores.testing import DAY, MALFORMED_KEYS, at, observed, stores_of
from tests.stored_sessions import stored

COOKIE = "sessionid"


def load(engine: Any, key: str) -> dict[str, Any]:
    return dict(engine.SessionStore(key).items())


# Types, in the serializer ------------------------------------------------------------------------


def zones() -> st.SearchStrategy[Any]:
    minutes = st.integers(-1439, 1439)
    return st.none() | minutes.map(
        lambda offset: datetime.timezone(datetime.timedelta(minutes=offset))
    )


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.uuids()
    | st.dates()
    | st.times(timezones=zones())
    | st.datetimes(timezones=zones())
    | st.timedeltas()
)
KEYS = st.text() | st.integers() | st.booleans() | st.uuids() | st.dates() | st.tuples(st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS, inner)
        | st.lists(inner).map(tuple)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=15,
)
SESSIONS = st.dictionaries(st.text() | st.integers(), VALUES, max_size=5)


@given(SESSIONS)
def test_every_value_comes_back_the_same(data: Any) -> None:
    """Values and types are the same at any depth, which `is_same` checks."""
    serializer = TypedSerializer()
    assert is_same(serializer.loads(serializer.dumps(data)), data)


@given(SESSIONS)
def test_what_was_loaded_serializes_to_the_same_bytes(data: Any) -> None:
    """Otherwise a request that only reads would count as a change."""
    serializer = TypedSerializer()
    data = serializer.dumps(data)
    assert serializer.dumps(serializer.loads(data)) == data


@given(SESSIONS)
def test_an_encrypted_session_is_decrypted(data: Any) -> None:
    """Through compression and encryption too."""
    whole = Codec(KeyRing(["secret"]), {1: TypedSerializer()}, 1)
    snapshot = whole.serialize(data)
    assert whole.decrypt("id", whole.encrypt("id", snapshot)) == snapshot
    assert whole.matches(snapshot, whole.deserialize(snapshot))


@given(SESSIONS, SESSIONS, SESSIONS)
def test_merge_keeps_every_change_that_only_one_side_made(
    base: Any, mine: Any, theirs: Any
) -> None:
    """The promise of no lost update, for any data."""
    missing = object()
    merged = merge(base, mine, theirs)
    for key in {**base, **mine, **theirs}:
        was, i_say, they_say = (side.get(key, missing) for side in (base, mine, theirs))
        if is_same(was, i_say):
            assert is_same(merged.get(key, missing), they_say)
        elif is_same(was, they_say):
            assert is_same(merged.get(key, missing), i_say)


@given(SESSIONS, SESSIONS)
def test_merge_takes_mine_of_what_both_sides_added(mine: Any, theirs: Any) -> None:
    """Mine is the later save. No value is merged with another one."""
    merged = merge({}, mine, theirs)
    assert all(is_same(merged[key], value) for key, value in mine.items())


@pytest.mark.parametrize("mine", [{"n": 2}, {"n": [1, 2]}, {}], ids=["number", "list", "removed"])
@pytest.mark.parametrize("theirs", [{"n": 3}, {"n": [1, 3]}, {}], ids=["number", "list", "removed"])
def test_merge_takes_mine_of_what_both_sides_changed(mine: Any, theirs: Any) -> None:
    """The later save wins for a key that both have found, too: promise 2."""
    merged = merge({"n": [1], "other": 1}, {**mine, "other": 1}, {**theirs, "other": 1})
    assert merged == {**mine, "other": 1}


@given(SESSIONS, SESSIONS)
def test_merge_without_others_changes_gives_mine(base: Any, mine: Any) -> None:
    """If only the other side has changes, the merge returns theirs."""
    for merged in (merge(base, mine, base), merge(base, base, mine)):
        assert merged.keys() == mine.keys()
        assert all(is_same(merged[key], value) for key, value in mine.items())


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=1), {"a": 1}),
        (Number.ONE, 1),
        (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
    ],
)
def test_a_subclass_comes_back_as_the_type_it_extends(value: Any, plain: Any) -> None:
    """Documented, and no class has to be imported to read a session."""
    serializer = TypedSerializer()
    assert is_same(serializer.loads(serializer.dumps([value])), [plain])


@pytest.mark.parametrize(
    "value",
    [datetime.datetime(2026, 10, 25, 2, 30, fold=1), datetime.time(2, 30, 0, 5, fold=1)],
    ids=repr,
)
def test_the_second_of_an_hour_that_comes_twice(value: Any) -> None:
    """A naive moment would otherwise come back an hour earlier. It equals the first one."""
    serializer = TypedSerializer()
    data = serializer.dumps([value])
    (found,) = serializer.loads(data)
    assert (found, found.fold) == (value, 1)
    assert serializer.dumps([found]) == data
    (first,) = serializer.loads(serializer.dumps([value.replace(fold=0)]))
    assert first.fold == 0


class Opaque:
    """What only a serializer of the project keeps. It does not say when two are equal."""

    def __init__(self, x: int) -> None:
        self.x = x


NOT_A_NUMBER = [float("nan"), [1, float("nan")], decimal.Decimal("NaN"), decimal.Decimal("sNaN")]


@pytest.mark.parametrize("value", NOT_A_NUMBER, ids=repr)
def test_what_does_not_equal_itself_is_no_change(value: Any) -> None:
    """Comparing one of them with ``==`` even raises an error."""
    codec = Codec(KeyRing(["secret"]), {1: TypedSerializer()}, 1)
    one, two = (codec.deserialize(codec.serialize({"x": value, "y": 1})) for _ in range(2))
    assert list(changes(one, two)) == []
    assert merge(one, two, {"x": 5, "y": 1}) == {"x": 5, "y": 1}
    assert codec.matches(codec.serialize(one), dict(reversed(two.items())))


class PickleSerializer:
    """What projects have kept from the time when Django had one."""

    def dumps(self, obj: Any) -> bytes:
        return pickle.dumps(obj)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


def test_values_of_other_serializers_are_compared() -> None:
    """By value if their class has one, and by what is stored if not."""
    codec = Codec(KeyRing(["secret"]), {1: PickleSerializer()}, 1)
    data = {"a": Opaque(1), "b": [complex(1, 2), {"c": {complex(1)}}], "d": 1}
    snapshot = codec.serialize(data)
    one, two = codec.deserialize(snapshot), codec.deserialize(snapshot)
    assert list(changes(one, two, codec.is_same)) == []
    two["a"].x = 2
    two["b"][1]["c"].add(3)
    assert [key for key, _ in changes(one, two, codec.is_same)] == ["a", "b"]
    assert is_same(one["b"], codec.deserialize(snapshot)["b"])
    assert not is_same(one["b"], [complex(1, 2), {"e": {complex(1)}}])
    assert not is_same(complex(1), Opaque(1))


def test_a_comparison_that_fails_is_a_change() -> None:
    """It must not end the request."""

    class Failing:
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = None  # type: ignore[assignment]

    assert not is_same(Failing(), Failing())
    codec = Codec(KeyRing(["secret"]), {1: JSONSerializer()}, 1)
    assert not codec.is_same(Failing(), Failing())


def test_a_codec_that_writes_with_another_serializer_compares_by_it() -> None:
    """JSON has no tuples, so a tuple and a list are stored as the same."""
    codec = Codec(KeyRing(["secret"]), {1: JSONSerializer()}, 1)
    assert codec.is_same((1, 2), [1, 2])
    assert not codec.is_same([1, 2], [2, 1])
    assert codec.matches(codec.serialize({"x": (1, 2), "y": 1}), {"y": 1, "x": (1, 2)})
    assert not codec.matches(codec.serialize({"x": 1}), {"y": 1})


# Types, in the stores ----------------------------------------------------------------------------

EACH_TYPE: dict[str, Any] = {
    "none": None,
    "bool": [True, False],
    "int": [0, -1, 2**31, 2**63, -(2**64)],
    "float": [0.1, -0.0, 1e300, float("inf")],
    "text": ["", "a\x00b", "ünïcödé", "😀", "\u2028"],
    "bytes": [b"", bytes(range(256))],
    "datetime": datetime.datetime(2026, 3, 29, 1, 30, 0, 5),
    "aware": datetime.datetime(2026, 3, 29, 1, 30, tzinfo=datetime.UTC),
    "date": datetime.date(1, 1, 1),
    "time": datetime.time(23, 59, 59, 999999),
    "timedelta": datetime.timedelta(days=-400, microseconds=1),
    "decimal": decimal.Decimal("0.10"),
    "uuid": uuid.UUID(int=1),
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({b"x"}),
    "tuple": (1, [2, (3,)]),
    "int keys": {1: {2: "nested"}},
    "mixed keys": {"1": "text", 1: "number", datetime.date(2026, 1, 1): "date"},
    "empty": [[], {}, (), set()],
}


@pytest.mark.parametrize("name", EACH_TYPE)
def test_a_type_survives(engine: Any, name: str) -> None:
    """The same on every engine: moving engines must not change a program."""
    assert is_same(load(engine, stored(engine, value=EACH_TYPE[name])), {"value": EACH_TYPE[name]})


def test_int_keys_of_the_session_itself(engine: Any) -> None:
    """Django's JSON makes text of them, and a second save makes two of one."""
    session = engine.SessionStore()
    session[1] = "one"
    session.save()
    again = engine.SessionStore(session.session_key)
    again[1] = "uno"
    again.save()
    assert load(engine, again.session_key) == {1: "uno"}


def test_an_empty_session(engine: Any) -> None:
    """It is there, which a session without data must not be confused with."""
    session = engine.SessionStore()
    session.create()
    assert load(engine, session.session_key) == {}
    assert engine.SessionStore().exists(session.session_key)


@pytest.mark.parametrize(
    "value",
    [object(), [{"deep": ({object()},)}], {object(): 1}, lambda: None, type],
    ids=["object", "nested", "as-key", "function", "class"],
)
def test_an_unserializable_value_names_its_key(engine: Any, value: Any) -> None:
    """The stored session stays complete and is not overwritten in part."""
    key = stored(engine, color="blue")
    session = engine.SessionStore(key)
    session["color"] = "red"
    session["culprit"] = value
    with pytest.raises(UnserializableValue, match=r"session\['culprit'\]"):
        session.save()
    assert load(engine, key) == {"color": "blue"}


class QuotingDict(dict[str, Any]):
    """A project's own, with an error that quotes what is in it."""

    def items(self) -> Any:
        raise TypeError(f"no items of {dict(self)}")


class QuotingSerializer:
    """A project's own, as pickle does with some values."""

    def dumps(self, obj: Any) -> bytes:
        raise ValueError(f"cannot pickle {obj}")

    def loads(self, data: bytes) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("serializer", "value", "reason"),
    [
        (TypedSerializer(), [object()], "builtins.object is not serializable"),
        (TypedSerializer(), QuotingDict(pin="4711"), "this QuotingDict raises TypeError"),
        (JSONSerializer(), [{4711}], "Object of type set is not JSON serializable"),
        (JSONSerializer(), QuotingDict(pin="4711"), "this QuotingDict raises TypeError"),
        (QuotingSerializer(), "4711", "this str raises ValueError"),
    ],
    ids=["object", "quoted", "JSON", "quoted in JSON", "quoted by a serializer"],
)
def test_the_reason_names_types_and_quotes_no_value(
    serializer: Any, value: Any, reason: str
) -> None:
    codec = Codec(key_ring(), {1: serializer}, writes=1)
    for refused in (
        lambda: codec.serialize({"culprit": value}),
        lambda: codec.serialize_change({"culprit": value}),
    ):
        with pytest.raises(UnserializableValue) as caught:
            refused()
        assert "4711" not in str(caught.value)
    with pytest.raises(UnserializableValue, match=rf"session\['culprit'\].*{reason}"):
        codec.serialize({"culprit": value})


def test_a_value_that_contains_itself_is_refused(engine: Any) -> None:
    """The interpreter does not crash."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnserializableValue, match=r"session\['loop'\]"):
        stored(engine, loop=loop)


# SESSION_SERIALIZER ------------------------------------------------------------------------------


class ReversedSerializer:
    """A project's own."""

    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj).encode()[::-1]

    def loads(self, data: bytes) -> Any:
        return json.loads(data[::-1])


DJANGOS = "django.contrib.sessions.serializers.JSONSerializer"
OWN = f"{__name__}.ReversedSerializer"
# The memory engine begins anew when a setting changes.
SEVERAL = ("file", "db:sqlite", "cache:redis-cache")


@pytest.mark.engines(*SEVERAL)
@pytest.mark.parametrize("path", [DJANGOS, OWN])
def test_session_serializer_is_honoured(engine: Any, path: str) -> None:
    """A project that chose JSON gets JSON, with its limits."""
    with override_settings(SESSION_SERIALIZER=path):
        assert load(engine, stored(engine, x=[1, "a"])) == {"x": [1, "a"]}
        assert load(engine, stored(engine, x=(1,))) == {"x": [1]}
        with pytest.raises(UnserializableValue, match="'x'"):
            stored(engine, x={1, 2})


@pytest.mark.engines(*SEVERAL)
def test_a_value_that_comes_back_as_another_type_is_one_write(engine: Any) -> None:
    """The later save of the same request does not undo what another one has saved since."""
    with override_settings(SESSION_SERIALIZER=DJANGOS):
        session = engine.SessionStore()
        session["x"] = (1,)
        session.save()
        other = engine.SessionStore(session.session_key)
        other["x"] = "newer"
        other.save()
        session["y"] = 1
        session.save()
        assert load(engine, session.session_key) == {"x": "newer", "y": 1}


@pytest.mark.engines(*SEVERAL)
@pytest.mark.parametrize(("before", "after"), [(None, DJANGOS), (DJANGOS, None)])
def test_a_change_of_serializer_logs_nobody_out(
    engine: Any, before: str | None, after: str | None
) -> None:
    """A payload says which one wrote it."""

    def serializer(path: str | None) -> Any:
        return override_settings(**({"SESSION_SERIALIZER": path} if path else {}))

    with serializer(before):
        key = stored(engine, x=1)
    with serializer(after):
        session = engine.SessionStore(key)
        assert session["x"] == 1
        assert not session.modified
        session["y"] = 2
        session.save()
    with serializer(before):
        assert load(engine, key) == {"x": 1, "y": 2}


def test_djangos_default_serializer_is_not_used() -> None:
    """It would lose types; what it keeps, the package's own keeps too."""
    assert codec().deserialize(codec().serialize({"x": {1, 2}})) == {"x": {1, 2}}


# Lifetimes ---------------------------------------------------------------------------------------

SECONDS = {"1 s": 1, "31 days": 31 * 86_400, "400 days": 400 * 86_400}


@pytest.mark.parametrize("kind", ["seconds", "timedelta", "datetime"])
@pytest.mark.parametrize("age", SECONDS.values(), ids=SECONDS.keys())
def test_a_lifetime(engine: Any, age: int, kind: str) -> None:
    """Some stores take more than 30 days of seconds for a date in 1970."""
    session = engine.SessionStore()
    session["x"] = 1
    delta = datetime.timedelta(seconds=age)
    session.set_expiry(
        {
            "seconds": age,
            "timedelta": delta,
            "datetime": datetime.datetime.now(datetime.UTC) + delta,
        }[kind]
    )
    moment = now()
    session.save()
    key = session.session_key
    with at(moment + age * 1000 - 700):
        assert engine.SessionStore(key).get("x") == 1
    with at(moment + age * 1000 + 30_000):
        assert load(engine, key) == {}


@pytest.mark.parametrize("age", [0, None])
def test_a_lifetime_of_the_browser(engine: Any, age: int | None) -> None:
    """Finite in the store: SESSION_COOKIE_AGE, since no browser tells when it ends."""
    session = engine.SessionStore()
    session["x"] = 1
    session.set_expiry(age)
    session.save()
    with at(now() + 13 * DAY):
        assert engine.SessionStore(session.session_key).get("x") == 1
    with at(now() + 15 * DAY):
        assert load(engine, session.session_key) == {}


@pytest.mark.parametrize("age", [-1, datetime.timedelta(days=-1)], ids=["seconds", "timedelta"])
def test_a_negative_lifetime_ends_the_session(engine: Any, age: Any) -> None:
    """A store may take it for "never expires"."""
    key = stored(engine, x=1)
    session = engine.SessionStore(key)
    session.set_expiry(age)
    session.save()
    assert load(engine, session.session_key) == {}


@pytest.mark.engines("file", "db:sqlite")
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_stored_expiry_survives_a_change_of_use_tz(
    engine: Any, before: bool, after: bool
) -> None:
    """Django's engines answer it with a TypeError for as long as the cookie lives."""
    with override_settings(USE_TZ=before):
        session = engine.SessionStore()
        moment = datetime.datetime.now(datetime.UTC if before else None)
        session.set_expiry(moment + datetime.timedelta(hours=1))
        session.save()
    with override_settings(USE_TZ=after):
        later = engine.SessionStore(session.session_key)
        assert later.get_expiry_age() > 0
        later["x"] = 1
        later.save()
        assert engine.SessionStore(session.session_key).get("x") == 1


# Sizes -------------------------------------------------------------------------------------------


def test_a_megabyte(engine: Any) -> None:
    """Kept, or refused with an error that says so; then the stored session stays whole."""
    key = stored(engine, color="blue")
    session = engine.SessionStore(key)
    blob = os.urandom(1_048_576)
    session["blob"] = blob
    limit = engine.storage.max_payload
    limited = "cache:memcached" in engine.id or engine.name == "cookie"
    if limited or (limit is not None and limit <= len(blob)):
        with pytest.raises(PayloadTooLarge):
            session.save()
        assert load(engine, key) == {"color": "blue"}
    else:
        session.save()
        assert load(engine, key) == {"color": "blue", "blob": blob}


# Cookies -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("middleware")
@pytest.mark.parametrize("route", ["read", "write/x/1", "logout"])
def test_a_strange_cookie_makes_no_round_trip_and_no_error(engine: Any, route: str) -> None:
    """Through the whole of Django: anybody can send anything."""
    for key in MALFORMED_KEYS:
        if key != key.strip():
            continue  # Parsing a cookie strips it.
        # The bytes of a header as WSGI hands them on; the client's own cookies would be quoted.
        header = f"{COOKIE}={key}".encode("utf-8", "surrogateescape").decode("latin-1")
        with observed(*stores_of(engine.storage)) as calls:
            response = Client().get(f"/{route}/", HTTP_COOKIE=header)
        assert response.status_code == 200, key
        assert set(calls) <= {"create"}, key
        if route == "write/x/1":
            assert response.cookies[COOKIE].value != key
            assert load(engine, response.cookies[COOKIE].value) == {"x": "1"}


@pytest.mark.parametrize("serializer", [TypedSerializer, JSONSerializer])
def test_a_key_is_found_without_deserialising(serializer: Any) -> None:
    """Only the bytes of the package's own serializer tell whether a key is missing. With others, it
    may be there."""
    kind = f"{serializer.__module__}.{serializer.__qualname__}"
    with override_settings(SESSION_SERIALIZER=kind):
        used = codec()
        assert not used.lacks(used.serialize({"a": 1, "expiry": 2}), b"expiry")
        assert not used.lacks(used.serialize({"a": "the expiry"}), b"expiry")
        assert used.lacks(used.serialize({"a": 1}), b"expiry") is (serializer is TypedSerializer)


class ClassNameSerializer:
    """A project's own, which sees of what class the data is."""

    def dumps(self, obj: Any) -> bytes:
        return type(obj).__name__.encode()

    def loads(self, data: bytes) -> Any:
        return {}


def test_a_serializer_of_the_project_gets_a_plain_dict() -> None:
    """It may keep the class, and the package's own is not part of the stored format."""
    codec = Codec(KeyRing(["a"]), {3: ClassNameSerializer()}, 3)
    datas: tuple[dict[str, int], ...] = ({"a": 1}, SecretDict(a=1))
    for data in datas:
        assert codec.serialize(data).data == b"dict"
        assert codec.serialize_change(data).data == b"dict"
        assert codec.matches(Snapshot(3, b"dict"), data)

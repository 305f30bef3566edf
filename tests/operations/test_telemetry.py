"""Metrics say how many and how long, and never who."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.test import override_settings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from django_sessionstores import signals
from django_sessionstores.core import flow
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client, draw_key
from django_sessionstores.exceptions import MissingExtra, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations import telemetry
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.testing import Twin, at, observed, stores_of
from tests.sessions.test_lifetimes import limits

MAIN = ("memory", "db:sqlite", "file", "cache:redis-cache", "cookie:sqlite")


class Metrics:
    """What is measured, as an exporter would get it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def read(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self._reader.get_metrics_data()
        return {
            metric.name.removeprefix("django_sessionstores."): metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        metric = self.read().get(name)
        return list(metric.data.data_points) if metric else []

    def counted(self, name: str) -> dict[str | None, int]:
        """Return the counts of a metric by reason."""
        return {
            point.attributes.get("django_sessionstores.reason"): point.value
            for point in self.points(name)
        }

    def measured(self) -> dict[tuple[Any, ...], int]:
        """Return the numbers of calls, by storage, operation, and outcome or error."""
        kinds = ("django_sessionstores.storage", "django_sessionstores.operation")
        return {
            (
                *(point.attributes[kind] for kind in kinds),
                point.attributes.get("django_sessionstores.outcome")
                or point.attributes.get("error.type"),
            ): point.count
            for point in self.points("storage.operation.duration")
        }


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    telemetry.instrument(made.provider)
    yield made
    telemetry.uninstrument()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def logged_in(engine: Any, awaited: bool, user_id: str = "7") -> Any:
    session = Twin(engine.SessionStore(), awaited)
    session.set("_auth_user_id", user_id)
    session.save()
    return session


@pytest.mark.engines(*MAIN)
def test_what_happens_to_sessions_is_counted(engine: Any, awaited: bool, metrics: Metrics) -> None:
    """The counters have the reason, if there is one."""
    session = logged_in(engine, awaited)
    previous = session.session_key
    session.cycle_key()
    session.save()
    Twin(engine.SessionStore(previous), awaited).get("x")
    Twin(Inventory(), awaited).end(session.session_id)
    logged_in(engine, awaited).flush()
    assert metrics.counted("sessions.created") == {None: 2}
    assert metrics.counted("sessions.rotated") == {None: 1}
    assert metrics.counted("sessions.rejected") == {"superseded": 1}
    assert metrics.counted("sessions.ended") == {"revoked": 1, "logout": 1}
    assert metrics.read()["sessions.ended"].unit == "{session}"
    (point, _) = metrics.points("sessions.ended")
    assert point.attributes["django_sessionstores.engine"] == engine.SessionStore.__module__


@pytest.mark.engines("memory")
def test_another_client_is_counted(engine: Any, awaited: bool, metrics: Metrics) -> None:
    moment = now()
    session = engine.SessionStore()
    session.policy = RequestPolicy(client=lambda: Client("192.0.2.1", "a"))
    session["x"] = 1
    with at(moment):
        session.save()
    again = engine.SessionStore(session.session_key)
    again.policy = RequestPolicy(client=lambda: Client("192.0.2.2", "a"))
    with at(moment + 3_600_000):
        Twin(again, awaited).set("x", 2)
        Twin(again, awaited).save()
    assert metrics.counted("sessions.client_changed") == {None: 1}


@pytest.mark.engines(*MAIN)
def test_calls_of_the_store_are_measured(engine: Any, awaited: bool, metrics: Metrics) -> None:
    """Each call is counted once, and its duration is in seconds."""
    with observed(*stores_of(engine.storage)) as calls:
        session = logged_in(engine, awaited)
        Twin(engine.SessionStore(session.session_key), awaited).get("x")
        session.flush()
    points = metrics.points("storage.operation.duration")
    assert sum(point.count for point in points) == len(calls) > 2
    assert 0 < sum(point.sum for point in points) < 60
    assert metrics.read()["storage.operation.duration"].unit == "s"
    assert {point.attributes["django_sessionstores.storage"] for point in points} == {
        type(store).__name__ for store in stores_of(engine.storage)
    }
    assert points[0].explicit_bounds[0] == 0.0001


@pytest.mark.engines("memory")
def test_outcomes_are_told_apart(engine: Any, awaited: bool, metrics: Metrics) -> None:
    """Many conflicts slow a site down, and errors are an outage."""
    session = logged_in(engine, awaited)
    mine, theirs = (Twin(engine.SessionStore(session.session_key), awaited) for _ in range(2))
    for number, each in enumerate((mine, theirs)):
        each.get("x")
        each.set(f"x{number}", 1)
    mine.save()
    theirs.save()

    def broken(name: str) -> None:
        raise StorageUnavailable("broken")

    with observed(engine.storage, before=broken), pytest.raises(StorageUnavailable):
        Twin(engine.SessionStore(session.session_key), awaited).get("x")
    assert metrics.measured() == {
        ("MemoryStorage", "create", "updated"): 1,
        ("MemoryStorage", "read", None): 2,
        ("MemoryStorage", "update", "updated"): 2,
        ("MemoryStorage", "update", "conflict"): 1,
        ("MemoryStorage", "read", "StorageUnavailable"): 1,
    }


@pytest.mark.engines("cached_db:locmem+sqlite")
def test_a_storage_of_two_is_measured_by_its_parts(
    engine: Any, awaited: bool, metrics: Metrics
) -> None:
    """Measuring the storage itself as well would count each call twice."""
    logged_in(engine, awaited)
    assert isinstance(engine.storage, LayeredStorage)
    assert {storage for storage, *_ in metrics.measured()} == {"DatabaseStorage", "LocMemStorage"}


@pytest.mark.engines(*MAIN)
def test_nothing_tells_who(engine: Any, awaited: bool, metrics: Metrics) -> None:
    """Metrics go to people who may not see sessions, and each new value would be a new series."""
    with limits(MAX_SESSIONS=1):
        session = logged_in(engine, awaited, "a-user")
        logged_in(engine, awaited, "a-user")
        Twin(engine.SessionStore(draw_key()), awaited).get("x")
    told = repr(metrics.read())
    assert "reason" in told
    assert not any(each in told for each in ("a-user", session.session_id, session.session_key))


@pytest.mark.engines("memory")
def test_it_costs_nothing_until_it_is_asked_for(engine: Any) -> None:
    """Without the option, no observer is registered and no call is watched."""
    before = list(signals.observers)
    assert flow._watcher is None
    for _ in range(2):
        telemetry.instrument(Metrics().provider)
        assert flow._watcher is not None
        assert len(signals.observers) == len(before) + 1
    telemetry.uninstrument()
    assert flow._watcher is None
    assert signals.observers == before


def test_without_the_extra() -> None:
    """The error says what to install."""
    name = telemetry.__name__
    with mock.patch.dict(sys.modules, {"opentelemetry.metrics": None}):
        del sys.modules[name]
        with pytest.raises(MissingExtra, match=r"django-sessionstores\[opentelemetry\]"):
            importlib.import_module(name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"OPENTELEMETRY": True}, "True"),
        ({}, "False"),
        ([], "False"),
        ({"OPENTELEMETRY": 1}, "False"),
    ],
    ids=str,
)
def test_one_line_turns_it_on(options: Any, expected: str) -> None:
    """This happens when Django starts. Wrong settings are reported by the checks, which run
    later."""
    code = (
        "import django; from django.conf import settings; settings.configure("
        f"SESSIONSTORES={options!r}, INSTALLED_APPS=['django.contrib.contenttypes',"
        "'django.contrib.auth', 'django_sessionstores'], SECRET_KEY='x'); django.setup();"
        "from django_sessionstores.core import flow; print(flow._watcher is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == expected


@override_settings(SESSIONSTORES={"OPENTELEMETRY": "yes"})
def test_a_wrong_option_is_named() -> None:
    from django_sessionstores.operations.checks.options import check_settings

    assert [each.id for each in check_settings(None)] == ["sessionstores.E003"]

"""Expiries that no store, column or cookie can hold: far, past, endless and without a zone."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone
from django.utils.http import parse_http_date

from django_sessionstores.core import lifetime
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import UnserializableValue
from django_sessionstores.inventory import Inventory
from django_sessionstores.management import reports
from django_sessionstores.templatetags.sessionstores import exact
from django_sessionstores.testing import DAY, HOUR, at
from tests import urls
from tests.payloads.test_types import load, stored
from tests.sessions.test_lifetimes import limits

UTC = datetime.UTC
IN_2040 = int(datetime.datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1000)
IN_9999 = int(datetime.datetime(9999, 6, 1, tzinfo=UTC).timestamp() * 1000)
EAST, WEST = (datetime.timezone(datetime.timedelta(hours=hours)) for hours in (14, -12))

FAR: dict[str, Any] = {
    "30 years": 30 * 366 * 86_400,
    "year 2041": datetime.datetime(2041, 1, 1, tzinfo=UTC),
    "3,000 years": datetime.timedelta(days=365 * 3000),
    "10,000 years": 10**12,
    "huge int": 10**30,
    "huge float": 1e308,
    "infinite": float("inf"),
    "Decimal": decimal.Decimal("1e20"),
    "year 9999": datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "naive, year 9999": datetime.datetime.max,
    "east": datetime.datetime.max.replace(tzinfo=EAST),
    "west": datetime.datetime.max.replace(tzinfo=WEST),
}
PAST: dict[str, Any] = {
    "an hour": -3600,
    "huge int": -(10**30),
    "huge float": -1e308,
    "infinite": float("-inf"),
    "timedelta": datetime.timedelta(days=-365 * 2000),
    "year 1900": datetime.datetime(1900, 1, 1, tzinfo=UTC),
    "naive, year 1": datetime.datetime.min,
    "east": datetime.datetime.min.replace(tzinfo=EAST),
    "west": datetime.datetime.min.replace(tzinfo=WEST),
}
NO_EXPIRY = [float("nan"), decimal.Decimal("sNaN"), "soon", [1], {"days": 1}, ()]
ZONES = ["Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin"]


@pytest.fixture(params=[True, False], ids=["USE_TZ", "no USE_TZ"])
def use_tz(request: pytest.FixtureRequest) -> Iterator[bool]:
    with override_settings(USE_TZ=request.param, TIME_ZONE="America/New_York"):
        yield request.param


# In the stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAR)
def test_a_far_expiry_is_kept(engine: Any, name: str) -> None:
    """No store takes it for a moment that has passed, or cuts it short."""
    session = engine.SessionStore()
    session["x"] = 1
    session.set_expiry(FAR[name])
    session.save()
    key = session.session_key
    for moment in (now(), now() + DAY, IN_2040):
        with at(moment):
            again = engine.SessionStore(key)
            assert again.get("x") == 1
            assert again["_session_expiry"] == session["_session_expiry"]
    later = engine.SessionStore(key)
    later["y"] = 1
    later.save()
    assert load(engine, later.session_key).keys() == {"x", "y", "_session_expiry"}
    with at(IN_9999):
        is_over = name in {"30 years", "year 2041", "3,000 years"}
        assert (load(engine, later.session_key) == {}) is is_over


@pytest.mark.parametrize("name", PAST)
def test_a_past_expiry_ends_the_session(engine: Any, name: str) -> None:
    """No store takes it for "never"."""
    key = stored(engine, x=1)
    session = engine.SessionStore(key)
    session.set_expiry(PAST[name])
    session.save()
    assert load(engine, session.session_key) == {}


@pytest.mark.parametrize("expiry", NO_EXPIRY, ids=repr)
def test_what_is_no_expiry_is_refused(engine: Any, expiry: Any) -> None:
    """The save raises an error that names the value, and the stored session stays as it was."""
    key = stored(engine, x=1)
    session = engine.SessionStore(key)
    session["_session_expiry"] = expiry
    if expiry:
        with pytest.raises(UnserializableValue, match=r"session\['_session_expiry'\]") as caught:
            session.save()
        # A view may store anything there by mistake, which no log should have.
        assert type(expiry).__name__ in str(caught.value)
        assert repr(expiry) not in str(caught.value)
        with pytest.raises(UnserializableValue, match=r"session\['_session_expiry'\]"):
            stored(engine, _session_expiry=expiry)
        assert load(engine, key) == {"x": 1}
    else:  # As Django: the default.
        session.save()
        assert engine.SessionStore(session.session_key)["x"] == 1


@pytest.mark.parametrize("name", ["year 9999", "huge int"])
@pytest.mark.parametrize("zone", ZONES)
def test_it_is_listed_and_shown(engine: Any, name: str, zone: str) -> None:
    """In some time zones, the date is later than the last one that Python knows."""
    session = engine.SessionStore()
    session.set_expiry(FAR[name])
    session["_auth_user_id"] = "7"
    session.save()
    with override_settings(TIME_ZONE=zone), timezone.override(zone):
        deadlines = engine.SessionStore(session.session_key).deadlines()
        assert "9999" in reports.clock(deadlines.idle)
        assert "9999" in exact(deadlines.cookie)
        if engine.storage.lists:
            (found,) = Inventory().list().sessions
            assert "9999" in reports.clock(found.expires)
            assert exact(found.expires)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_naive_moment(engine: Any, use_tz: bool, hours: int) -> None:
    """It is in the project's time zone, whatever USE_TZ says; Django raises TypeError with it."""
    zone = timezone.get_default_timezone()
    moment = now() + hours * HOUR
    session = engine.SessionStore()
    session["x"] = 1
    naive = datetime.datetime.fromtimestamp(moment / 1000, zone).replace(tzinfo=None)
    session.set_expiry(naive)
    assert abs(session.get_expiry_age() - hours * 3600) <= 2
    assert timezone.is_aware(session.get_expiry_date()) is use_tz
    session.save()
    key = session.session_key
    assert (load(engine, key) == {}) is (hours < 0)
    if hours > 0:
        with at(moment - 10_000):
            assert engine.SessionStore(key).get("x") == 1
        with at(moment + 10_000):
            assert load(engine, key) == {}


# In cookies --------------------------------------------------------------------------------------

EXPIRY: Any = None


def set_expiry(request: HttpRequest) -> HttpResponse:
    request.session["x"] = 1
    request.session.set_expiry(EXPIRY)
    return HttpResponse("set")


urlpatterns = [*urls.urlpatterns, path("set_expiry/", set_expiry)]


@pytest.mark.engines("memory", "db:sqlite", "cache:memcached", "cookie:sqlite")
@pytest.mark.usefixtures("middleware")
@pytest.mark.parametrize("name", [*FAR, *(f"past: {each}" for each in PAST)])
def test_the_cookie_of_a_response(
    engine: Any, name: str, use_tz: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its date has a year of four digits, and making it is no error of the page."""
    values = FAR | {f"past: {each}": value for each, value in PAST.items()}
    monkeypatch.setitem(globals(), "EXPIRY", values[name])
    is_far = name in FAR
    browser = Client()
    with override_settings(ROOT_URLCONF=__name__):
        response = browser.get("/set_expiry/")
        assert response.status_code == 200
        cookie = response.cookies["sessionid"]
        seconds = parse_http_date(cookie["expires"]) - now() / 1000
        assert abs(seconds - int(cookie["max-age"])) < 5
        assert (seconds > 10**8) is is_far
        assert ("x" in browser.get("/read/").json()) is is_far


# The functions of Django's interface -------------------------------------------------------------


@pytest.mark.engines("memory")
@pytest.mark.parametrize("name", FAR)
def test_a_far_age_and_date(engine: Any, use_tz: bool, name: str) -> None:
    session = engine.SessionStore()
    session.set_expiry(FAR[name])
    age, date = session.get_expiry_age(), session.get_expiry_date()
    assert age > 10**8
    assert timezone.is_aware(date) is (use_tz or timezone.is_aware(date))
    assert date.year > 2035
    assert timezone.now() + datetime.timedelta(seconds=age)


@pytest.mark.engines("memory")
@pytest.mark.parametrize("name", PAST)
def test_a_past_age_and_date(engine: Any, use_tz: bool, name: str) -> None:
    session = engine.SessionStore()
    session.set_expiry(PAST[name])
    assert session.get_expiry_age() < 0
    assert session.get_expiry_date().year < 2100
    assert timezone.now() + datetime.timedelta(seconds=session.get_expiry_age())


def test_usual_ages_are_as_djangos() -> None:
    """The ages are equal to the second, whatever type of number was set."""
    moment = datetime.datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    for expiry, age in ((60, 60), (60.9, 60), (-5, -5), (None, 7), (0, 7), (True, 1)):
        assert lifetime.expiry_age(expiry, moment, 7) == age
        assert lifetime.expiry_age(expiry, moment.replace(tzinfo=None), 7) == age
        assert lifetime.expiry_age(expiry, None, 7) == age
    assert lifetime.expiry_date(60, moment, 7) == moment + datetime.timedelta(minutes=1)


@pytest.mark.parametrize("age", [10**12, 10**30])
def test_an_endless_age_from_now(age: int) -> None:
    for expiry, default in ((None, age), (age, 7)):
        seconds = lifetime.expiry_age(expiry, None, default)
        assert (timezone.now() + datetime.timedelta(seconds=seconds)).year == 9999
        assert lifetime.expiry_date(expiry, None, default).year == 9999


@pytest.mark.parametrize("is_naive", [True, False])
def test_a_lifetime_ends_where_stores_end(is_naive: bool) -> None:
    """The last hours of the year 9999 are not used, because some time zones do not have them."""
    moment = datetime.datetime(2026, 3, 29, 0, 30, tzinfo=None if is_naive else UTC)
    last_hour = datetime.datetime(9999, 12, 31, 23, tzinfo=moment.tzinfo)
    seconds = int((last_hour - moment).total_seconds())
    assert lifetime.expiry_date(seconds, moment, 7) == last_hour.replace(hour=0)
    assert lifetime.expiry_date(-seconds, moment, 7) == moment.replace(1970, 1, 1, 0, 0)
    assert lifetime.expiry_age(seconds, moment, 7) == seconds - 23 * 3600


@pytest.mark.engines("memory", "cookie:sqlite")
@pytest.mark.parametrize("option", ["ABSOLUTE_TIMEOUT", "IDLE_TIMEOUT"])
def test_an_endless_timeout(engine: Any, option: str) -> None:
    with limits(**{option: 10**12}):
        session = engine.SessionStore(stored(engine, x=1))
        assert session["x"] == 1
        deadlines = session.deadlines()
        assert deadlines.absolute is None or deadlines.absolute.year == 9999


@pytest.mark.parametrize("age", [10**12, 10**30])
def test_an_endless_default(engine: Any, age: int) -> None:
    """SESSION_COOKIE_AGE of projects that never want to sign out anybody."""
    with override_settings(SESSION_COOKIE_AGE=age):
        key = stored(engine, x=1)
        with at(IN_2040):
            assert load(engine, key) == {"x": 1}
        assert engine.SessionStore(key).get_expiry_age() > 10**11
        assert engine.SessionStore(key).get_expiry_date().year == 9999

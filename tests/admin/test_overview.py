"""The charts of the overview: their scale, their values, and the lists that they lead to."""

from __future__ import annotations

import re
from functools import partial
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.test import Client, override_settings
from django.utils import timezone
from msgspec import structs

from django_sessionstores.admin import overview_page
from django_sessionstores.core.clock import now
from django_sessionstores.models import SessionStatistics
from django_sessionstores.operations import overview
from django_sessionstores.testing import DAY, HOUR, at
from tests.admin.pages import (
    EVERY_ENGINE,
    ONE_ENGINE,
    PAGES,
    expired,
    person,
    signed_in,
    stored,
    text,
)
from tests.browser import Chromium, Site
from tests.devices.test_names import CITY, database
from tests.pages import SAMSUNG, window
from tests.sessions.test_lifetimes import limits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OVERVIEW = f"{PAGES}overview/"


def rows(page: str, heading: str) -> dict[str, str]:
    """Return the numbers of a bar chart by their labels."""
    chart = page.partition(f"<h3>{heading}</h3>")[2].partition("</table>")[0]
    return dict(re.findall(r'title="([^"]+)".*?<td class="ss-number">(\d+)</td>', chart, re.DOTALL))


@EVERY_ENGINE
def test_a_bar_leads_to_the_list_of_its_sessions(site: Any, client: Client) -> None:
    """The list has as many as the bar says."""
    moment = now()
    for hours in (1, 1, 5, 30, 100):
        with at(moment - hours * HOUR):
            stored(site, agent=SAMSUNG)
    with at(moment - 9 * DAY):
        stored(site)
    if not site.storage.self_expiring:
        expired(site)
    page = text(client.get(OVERVIEW))
    bars = re.findall(r'<a href="([^"]+)" class="ss-bar"[^>]+data-number="(\d+)"', page)
    assert len(bars) > 6
    # Expired sessions are only counted by their expiry, and are in the list of that.
    assert sum(int(number) for url, number in bars if "began=" in url) == 7
    assert sum(int(number) for url, number in bars if "expires=" in url) == (
        7 if site.storage.self_expiring else 8
    )
    devices = re.findall(
        r'href="([^"]+)">[^<]+</a></th>.*?<td class="ss-number">(\d+)<', page, re.DOTALL
    )
    assert {number for _, number in devices} == {"1", "5"}
    for url, number in bars + devices:
        listed = text(client.get(unescape(url)))
        assert re.search(rf">{number} sessions?<", listed), url


@EVERY_ENGINE
def test_the_overview_counts_users(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users are not sessions: some have several. A sample cannot tell how many there are."""
    ada, bob = person("ada"), person("bob")
    with at(now() - 2 * DAY):
        stored(site, bob)
    for number in range(4):
        with at(now() - number * 2 * HOUR):
            stored(site, ada)
    stored(site)
    page = text(client.get(OVERVIEW))
    assert "<dt>Users with sessions</dt><dd>3</dd>" in page
    assert rows(page, "Active users") == {
        "in the last 5 minutes": "2",
        "in the last hour": "2",
        "in the last 24 hours": "2",
        "in the last 7 days": "3",
    }
    assert rows(page, "Users by number of sessions") == {
        "1 session": "2",
        "2 sessions": "0",
        "3 to 5 sessions": "1",
        "6 to 10 sessions": "0",
        "11 or more sessions": "0",
    }
    monkeypatch.setattr(overview, "SAMPLE", 3)
    page = text(client.get(OVERVIEW))
    is_sample = site.case.database is None
    assert ("Users with sessions" not in page) is is_sample
    assert ("A sample does not tell how many users there are." in page) is is_sample


@ONE_ENGINE
def test_the_numbers_of_the_overview_have_separators(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those at its head as well as those of its charts, and those of a sample."""

    def many(*arguments: Any, **values: Any) -> overview.Overview:
        figures = overview.overview(*arguments)
        numbers = dict.fromkeys(
            ("live", "logged_in", "anonymous", "expired", "users", "sampled", "sampled_live"), 12345
        )
        return structs.replace(figures, **numbers, **values)

    for values in ({}, {"is_complete": False}):
        monkeypatch.setattr(overview_page, "overview", partial(many, **values))
        page = text(client.get(OVERVIEW))
        assert "12345" not in page
        assert page.count("12,345") >= 5


@EVERY_ENGINE
def test_the_overview_counts_countries(site: Any, client: Client, tmp_path: Path) -> None:
    """If a database tells them. Each leads to its sessions."""
    for ip in ("192.0.2.7", "192.0.2.8", "198.51.100.1"):
        stored(site, ip=ip)
    assert "By country" not in text(client.get(OVERVIEW))
    with override_settings(GEOIP_PATH=database(tmp_path, "GeoLite2-City", CITY)):
        page = text(client.get(OVERVIEW))
        assert rows(page, "By country") == {"Sweden": "2", "unknown": "2"}
        assert f'href="{PAGES}?country=Sweden"' in page
        assert ">2 sessions<" in text(client.get(PAGES, {"country": "Sweden"}))


@ONE_ENGINE
def test_charts_have_scales_with_units(site: Any, client: Client) -> None:
    """Two charts beside each other have the same."""
    hour = now() // HOUR
    for reason, number in (("", 1234), ("logout", 17)):
        SessionStatistics.objects.create(hour=hour, reason=reason, number=number)
    try:
        with limits(STATISTICS=True):
            page = text(client.get(OVERVIEW))
    finally:
        SessionStatistics.objects.all().delete()
    counted = page.partition('id="ss-history"')[2]
    assert (
        re.findall(r'<p class="ss-scale[^>]+><span>([\d,]+)</span><span>0<', counted)
        == ["1,234"] * 4
    )
    assert re.findall(r"Sessions per ([^<]+)<", counted) == ["1 h", "1 h", "1 day", "1 day"]


@ONE_ENGINE
def test_charts_in_the_hands_of_a_reader(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """The Tab key goes to a chart, arrow keys from bar to bar; the value is told, for the mouse,
    too, in the time zone of the reader. Enter leads to the list."""
    for hours in (1, 5, 5):
        with at(now() - hours * HOUR):
            stored(site)

    def scene(browser: Browser) -> list[Any]:
        page = window(browser, served, client, timezone_id="Asia/Tokyo").new_page()
        page.goto(OVERVIEW)
        figure = page.locator("figure.ss-figure").first
        bars, readout = figure.locator(".ss-bar"), figure.locator(".ss-readout")
        found: list[Any] = [[bar.get_attribute("tabindex") for bar in bars.all()]]
        bars.first.focus()
        found.append(readout.inner_text()[:2])
        page.keyboard.press("ArrowRight")
        found.append(readout.inner_text()[:2])
        bars.first.hover(force=True)
        found.append(readout.inner_text()[:2])
        found.append(page.locator("#ss-zone").inner_text())
        figure.locator("summary").click()
        found.append("GMT+9" in figure.locator("table").inner_text())
        page.emulate_media(media="print")
        found.append(page.locator(".ss-tabs").is_visible())
        page.emulate_media(media="screen")
        bars.first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**began=**")
        found.append(page.get_by_text("2 sessions", exact=True).count())
        page.context.close()
        return found

    assert chromium.do(scene) == [
        *(["0", "-1", "-1"], "2:", "1:", "2:"),
        *("Asia/Tokyo", True, False, 1),
    ]


@ONE_ENGINE
def test_charts_without_scripts(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """Bars are links, the tables have the values, and the page names the zone of its times."""
    stored(site)

    def scene(browser: Browser) -> list[Any]:
        page = window(browser, served, client, java_script_enabled=False).new_page()
        page.goto(OVERVIEW)
        figure = page.locator("figure.ss-figure").first
        found = [page.locator("#ss-zone").inner_text(), figure.locator("a.ss-bar").count()]
        figure.locator("summary").click()
        found.append(figure.locator("td").inner_text())
        page.context.close()
        return found

    assert chromium.do(scene) == [timezone.get_current_timezone_name(), 1, "2"]


@ONE_ENGINE
def test_a_session_has_the_id_that_it_began_with(site: Any, root: Any) -> None:
    """After a rotation, an entry of a log may name the former id."""
    client = signed_in(root)
    page = text(client.get(f"{PAGES}{client.session.session_id}/change/"))
    assert "First id" not in page
    session = client.session
    first = session.session_id
    session.cycle_key()
    session.save()
    client.cookies["sessionid"] = session.session_key
    page = text(client.get(f"{PAGES}{session.session_id}/change/"))
    assert f"<dt>First id</dt><dd><code>{first}</code>" in page

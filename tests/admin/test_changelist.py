"""The list as Django's admin makes lists: links, order, pages, filters, actions and an export."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone, translation

from django_sessionstores.admin import end_pages, export, list_page, listing
from django_sessionstores.core.clock import now
from django_sessionstores.core.lifetime import utc_datetime
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations import charts
from django_sessionstores.testing import DAY, HOUR, at, observed
from tests.admin.pages import (
    END,
    EVERY_ENGINE,
    EXPORT,
    ONE_ENGINE,
    PAGES,
    VIEW,
    confirmed,
    detail,
    expired,
    listed,
    own,
    person,
    said,
    short,
    signed_in,
    stored,
    text,
)
from tests.browser import Chromium, Site
from tests.devices.test_names import CITY, database
from tests.pages import FIREFOX, SAMSUNG, WIDTHS, window
from tests.stored_sessions import is_alive

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def ids_in_order(client: Client, **parameters: str) -> list[str]:
    """Return the beginnings of the ids on a page of the list, from top to bottom."""
    return re.findall(r"<code>([0-9a-f]{12})</code>", text(client.get(PAGES, parameters)))


def span(begin: int, end: int) -> str:
    """Return the value of a column of a chart between two moments, in milliseconds."""
    return charts.Column(utc_datetime(begin), utc_datetime(end), 0, "", "", "").span


def link(page: str, name: str) -> str:
    """Return the address of a link with this text; empty if there is none."""
    found = re.search(rf'<a [^>]*href="([^"]+)"[^>]*>(?:<bdi>)?{re.escape(name)}[ <]', page)
    return found[1].replace("&amp;", "&") if found else ""


# The first column ---------------------------------------------------------------------------------


@EVERY_ENGINE
def test_the_first_column_leads_to_the_session(site: Any, client: Client) -> None:
    """As in each list of the admin. An expired session has no page."""
    session = stored(site, person("ada"))
    page = text(client.get(PAGES))
    begin = f'<th scope="row"><a href="{detail(session)}">'
    first = page.partition(begin)[2].partition("</a>")[0]
    assert "ada" in first
    assert session.session_id[:12] in first
    if not site.storage.self_expiring:
        over = expired(site)
        page = text(client.get(PAGES, {"state": "expired"}))
        assert over.session_id[:12] in page
        assert over.session_id not in page


# Order --------------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_columns_sort(site: Any, client: Client) -> None:
    """All sessions are sorted, and not those of one page. Visitors come after users."""
    moment = now()
    made = []
    for number, (name, ip) in enumerate([("zoe", "192.0.2.9"), ("ada", "192.0.2.10"), ("", "")]):
        with at(moment - (number + 1) * HOUR):
            made.append(stored(site, person(name) if name else None, ip or "2001:db8::1"))
    zoe, ada, visitor = short(made[0]), short(made[1]), short(made[2])
    mine = short(own(client))

    def order(name: str) -> list[str]:
        found = ids_in_order(client, o=name, who="")
        return [each for each in found if {each} != mine]

    assert order("user") == [*ada, *zoe, *visitor]
    assert order("-user") == [*visitor, *zoe, *ada]
    assert order("ip") == [*zoe, *ada, *visitor]
    assert order("began") == [*visitor, *ada, *zoe]
    assert order("-expires") == [*zoe, *ada, *visitor]
    page = text(client.get(PAGES, {"o": "began"}))
    assert 'aria-sort="ascending"><a href="?' not in page
    assert parse_qs(urlsplit(link(page, "Began")).query) == {"o": ["-began"]}
    assert re.search(r'aria-sort="ascending"><a [^>]+>Began<', page)
    # A name that is not a column's changes nothing.
    assert set(order("nonsense")) == {*ada, *zoe, *visitor}


@EVERY_ENGINE
def test_sorted_pages_have_each_session_once(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order and the filter are those of each page, forwards and backwards."""
    monkeypatch.setattr(listing, "PER_PAGE", 3)
    visitors = [stored(site, ip=f"192.0.2.{number}") for number in range(1, 9)]
    url, found, pages = f"{PAGES}?who=visitors&o=ip", list[str](), list[str]()
    while url:
        page = text(client.get(url))
        pages.append(url)
        found += re.findall(r"<code>([0-9a-f]{12})</code>", page)
        assert "8 sessions" in page
        url = link(page, "Next page")
    assert found == [each.session_id[:12] for each in visitors]
    assert len(pages) == 3
    before = link(text(client.get(pages[2])), "Previous page")
    ids = re.findall(r"<code>([0-9a-f]{12})</code>", text(client.get(before)))
    assert ids == found[3:6]


@EVERY_ENGINE
def test_too_many_sessions_to_sort(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says so, and is in the store's order, which it names."""
    monkeypatch.setattr(listing, "WITHIN", 4)
    monkeypatch.setattr(list_page, "WITHIN", 4)
    monkeypatch.setattr(listing, "PER_PAGE", 3)
    for _ in range(6):
        stored(site)
    for parameters in ({"o": "began"}, {"_facets": "True"}):
        page = text(client.get(PAGES, parameters))
        assert "There are more than 4 sessions, too many to sort or count them." in page
        assert "Up to 4 sessions can be sorted by a column." in page
        assert link(page, "Began") == ""
        assert ids_in_order(client, **parameters) == ids_in_order(client)
    by_expiry = bool(site.storage.first_expired(now()))
    assert ("The last to expire come first." in page) is by_expiry
    assert ("In the order of their ids." in page) is not by_expiry


# Pages --------------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_previous_pages(site: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store only lists forwards. The way back is in the address."""
    monkeypatch.setattr(listing, "PER_PAGE", 2)
    monkeypatch.setattr(listing, "_MOST_BACK", 2)
    for _ in range(9):
        stored(site)
    pages, page = [f"{PAGES}?who=visitors"], ""
    while True:
        page = text(client.get(pages[-1]))
        assert (f"Page {len(pages)}") in page
        if not (url := link(page, "Next page")):
            break
        pages.append(url)
    assert len(pages) == 5
    shown = [set(re.findall(r"<code>([0-9a-f]{12})</code>", text(client.get(u)))) for u in pages]
    for number in (3, 2):
        url = link(page, "Previous page")
        page = text(client.get(url))
        assert set(re.findall(r"<code>([0-9a-f]{12})</code>", page)) == shown[number]
    # The address has only so many.
    assert link(page, "Previous page") == ""
    assert link(page, "First page") == pages[0]
    second = text(client.get(pages[1]))
    assert link(second, "Previous page") == pages[0]


@EVERY_ENGINE
def test_the_total(site: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is exact if the store counts, "about" if ids tell, and else not there."""
    monkeypatch.setattr(listing, "PER_PAGE", 30)
    ada = person("ada")
    for number in range(99):
        stored(site, ada if number < 40 else None)
    page = text(client.get(PAGES))
    if site.storage.indexes_counts:
        assert ">100 sessions<" in page
    else:
        (about,) = re.findall(r">about (\d+) sessions<", page)
        assert 50 <= int(about) <= 250
    page = text(client.get(PAGES, {"user": str(ada.pk)}))
    assert (">40 sessions<" in page) is site.storage.indexes_users
    page = text(client.get(PAGES, {"who": "visitors"}))
    by_id = not site.storage.first_expired(now())
    assert (re.search(r">about \d+ sessions<", page) is not None) is by_id
    assert (">30 sessions on this page<" in page) is not by_id
    assert ">1 session<" in text(client.get(PAGES, {"q": own(client).session_id[:20]}))


@ONE_ENGINE
def test_a_count_that_takes_too_long(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list does without it."""
    monkeypatch.setattr(listing, "PER_PAGE", 3)
    for _ in range(5):
        stored(site)

    def broken(name: str) -> None:
        if name == "count":
            raise StorageUnavailable("no answer after 10 seconds")

    with observed(site.storage, before=broken) as calls:
        page = text(client.get(PAGES))
    assert "count" in calls
    assert ">3 sessions on this page<" in page
    assert "no answer" not in page


# Filters ------------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_devices_are_filters(site: Any, client: Client) -> None:
    """Those on the page are offered, in the language of the page, with addresses for any."""
    session, other = stored(site, agent=SAMSUNG), stored(site)
    nameless = stored(site, agent="")
    page = text(client.get(PAGES))
    url = link(page, "Samsung Internet on Android")
    assert text(client.get(url)).count("Select session") == 1
    with translation.override("de"), override_settings(LANGUAGE_CODE="de"):
        german = link(text(client.get(PAGES)), "Samsung Internet auf Android")
    assert german == url
    assert listed(client, device="Firefox on Linux") == short(other)
    assert listed(client, device="-") == short(nameless, own(client))
    assert listed(client, device="none of these") == set()
    assert session.session_id


@ONE_ENGINE
def test_devices_of_one_page_are_said_to_be_those(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To offer all of them, all sessions would have to be read."""
    stored(site, agent=SAMSUNG)
    heading = re.compile("<summary>(Device[^<]*)</summary>")
    assert heading.findall(text(client.get(PAGES))) == ["Device"]
    monkeypatch.setattr("django_sessionstores.admin.listing.PER_PAGE", 1)
    assert heading.findall(text(client.get(PAGES))) == ["Device, on this page"]
    assert heading.findall(text(client.get(PAGES, {"_facets": "True"}))) == ["Device"]


@ONE_ENGINE
def test_countries_are_filters(site: Any, client: Client, tmp_path: Path) -> None:
    """They are if a database tells them."""
    near, far = stored(site, ip="192.0.2.7"), stored(site, ip="198.51.100.1")
    assert "Country" not in text(client.get(PAGES))
    with override_settings(GEOIP_PATH=database(tmp_path, "GeoLite2-City", CITY)):
        page = text(client.get(PAGES))
        assert link(page, "Sweden") == f"{PAGES}?country=Sweden"
        assert listed(client, country="Sweden") == short(near)
    assert far.session_id


@EVERY_ENGINE
def test_days_are_filters(site: Any, client: Client) -> None:
    """A week can be opened, and a day selected, as in a hierarchy of dates."""
    moment = now()
    made = []
    for days in (0, 3, 20, 60):
        with at(moment - days * DAY):
            session = site.SessionStore()
            session["x"] = 1
            session.set_expiry(100 * 86_400)
            session.save()
            made.append(session)
    today, week, month, older = made
    me = own(client)
    assert listed(client, began="week") == short(today, week, me)
    assert listed(client, began="month") == short(today, week, month, me)
    assert listed(client, began="older") == short(older)
    page = text(client.get(PAGES))
    assert listed(client, began=parse_qs(urlsplit(link(page, "Today")).query)["began"][0]) == short(
        today, me
    )
    day = timezone.localtime(utc_datetime(moment - 3 * DAY))
    assert f"began={day:%Y-%m-%d}" not in page
    assert f"began={day:%Y-%m-%d}" in text(client.get(PAGES, {"began": "week"}))
    assert listed(client, began=f"{day:%Y-%m-%d}") == short(week)
    past = timezone.localtime(utc_datetime(moment - 60 * DAY))
    assert listed(client, began=f"{past:%Y-%m-%d}") == short(older)
    between = span(moment - 30 * DAY, moment - 20 * DAY)
    assert listed(client, began=between) == short(month)
    for nonsense in ("nonsense", "2026-02-30", "20260201", "1-", f"0-{10**17}"):
        assert listed(client, began=nonsense) == short(*made, me)


@EVERY_ENGINE
def test_a_span_in_which_sessions_expire(site: Any, client: Client) -> None:
    """This filter is there if a link has selected it."""
    session, moment = stored(site), now()
    session.set_expiry(3600)
    session.save()
    assert "expires=" not in text(client.get(PAGES))
    hour = span(moment, moment + 2 * HOUR)
    assert listed(client, expires=hour) == short(session)


@EVERY_ENGINE
def test_counts_of_filters(site: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts what its option would list, with the other filters as they are."""
    monkeypatch.setattr(listing, "PER_PAGE", 2)
    ada = person("ada")
    for _ in range(3):
        stored(site, ada)
    for _ in range(2):
        stored(site, agent=SAMSUNG)
    with at(now() - 2 * HOUR):
        stored(site)
    if not site.storage.self_expiring:
        expired(site)
    assert "(3)" not in text(client.get(PAGES))
    with observed(site.storage) as calls:
        page = text(client.get(PAGES, {"_facets": "True"}))
    assert calls.count("scan") <= 2
    assert "7 sessions" in page
    counted = dict(re.findall(r"<bdi>([^<]+)</bdi> \((\d+)\)", page))
    assert (counted["Only users"], counted["Only visitors"]) == ("4", "3")
    assert counted["Samsung Internet on Android"] == "2"
    assert counted["More than an hour ago"] == "1"
    assert counted["Live"] == "7"
    if not site.storage.self_expiring:
        assert (counted["Expired, not purged"], counted["Live and expired"]) == ("1", "8")
    for name, number in re.findall(r"<bdi>([^<]+)</bdi> \((\d+)\)", page):
        url = link(page, name)
        assert re.search(rf">{number} sessions?<|no such session", text(client.get(url))), name
    page = text(client.get(PAGES, {"_facets": "True", "who": "visitors"}))
    counted = dict(re.findall(r"<bdi>([^<]+)</bdi> \((\d+)\)", page))
    assert (counted["Only users"], counted["Only visitors"]) == ("4", "3")
    assert (counted["Firefox on Linux"], counted["Samsung Internet on Android"]) == ("1", "2")
    assert "Hide counts" in page


@ONE_ENGINE
def test_filters_stay_when_others_are_selected(site: Any, client: Client) -> None:
    """And when a text is searched for; they can be cleared at once."""
    stored(site)
    page = text(client.get(PAGES, {"who": "visitors", "o": "began", "_facets": "True"}))
    query = parse_qs(urlsplit(link(page, "Today")).query)
    assert (query["who"], query["o"], query["_facets"]) == (["visitors"], ["began"], ["True"])
    assert '<input type="hidden" name="who" value="visitors">' in page
    cleared = parse_qs(urlsplit(link(page, "Clear all filters")).query)
    assert cleared == {"o": ["began"], "_facets": ["True"]}
    assert link(text(client.get(PAGES)), "Clear all filters") == ""


# Actions ------------------------------------------------------------------------------------------


@ONE_ENGINE
def test_the_list_is_as_it_was_after_an_action(site: Any, client: Client) -> None:
    """The reader goes on where they were, whether they ended a session or not."""
    sessions = [stored(site) for _ in range(3)]
    before = f"{PAGES}?who=visitors&o=began"
    page = text(client.get(before))
    inner = link(page, "visitor") or re.findall(rf'href="({PAGES}[0-9a-f]{{40}}[^"]+)"', page)[0]
    shown = text(client.get(inner.replace("&amp;", "&")))
    assert f'href="{before.replace("&", "&amp;")}"' in shown
    end = link(shown, "End this session…")
    assert confirmed(client, end).request["QUERY_STRING"] == "who=visitors&o=began"
    action = re.findall(r'<form method="post" action="([^"]+)" id="ss-chosen">', page)[0]
    left = [each for each in sessions if is_alive(site, each)]
    question = client.post(action, {"action": "end", "id": [left[0].session_id]})
    assert f'href="{before.replace("&", "&amp;")}"' in text(question)
    form = re.findall(r'<form method="post" action="([^"]+)" class="ss-actions"', text(question))[0]
    answer = confirmed(client, form, id=[left[0].session_id])
    assert answer.request["QUERY_STRING"] == "who=visitors&o=began"
    assert "1 session was ended." in said(answer)
    assert not is_alive(site, left[0])


@ONE_ENGINE
def test_a_link_does_not_carry_what_is_not_of_the_list(site: Any, client: Client) -> None:
    """A parameter that the list does not know is dropped, and so is a text like a key."""
    session = stored(site)
    kept = f"x=1&q={'k' * 32}&who=visitors"
    page = text(client.get(detail(session), {"_changelist_filters": kept}))
    assert "k" * 32 not in page
    assert f'href="{PAGES}?who=visitors"' in page


@ONE_ENGINE
def test_an_action_needs_a_selection_and_a_permission(site: Any, client: Client) -> None:
    """The menu has only what the user may do."""
    session = stored(site)
    answer = client.post(f"{PAGES}action/", {"action": ""}, follow=True)
    assert "No action selected." in said(answer)
    for permissions, actions in (
        ((VIEW,), set[str]()),
        ((VIEW, END), {"end", "end_matching"}),
        ((VIEW, EXPORT), {"export"}),
        ((VIEW, END, EXPORT), {"end", "end_matching", "export"}),
    ):
        reader = signed_in(person("-".join(permissions), *permissions))
        page = text(reader.get(PAGES))
        assert set(re.findall(r'<option value="(\w+)"', page)) == actions
        for action in ("end", "end_matching", "export"):
            answer = reader.post(f"{PAGES}action/", {"action": action})
            assert (answer.status_code != 403) is (action in actions)
        assert reader.get(f"{PAGES}action/").status_code == 405
    assert is_alive(site, session)


@EVERY_ENGINE
def test_end_all_that_match(site: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks first. The others, and one's own session, stay."""
    monkeypatch.setattr(end_pages, "REQUEST_SECONDS", 0)
    ada = person("ada")
    matching, other = [stored(site, ada) for _ in range(3)], stored(site)
    query = {"who": "users"}
    page = text(client.get(PAGES, query))
    action = re.findall(r'<form method="post" action="([^"]+)" id="ss-chosen">', page)[0]
    asked = client.post(action, {"action": "end_matching"}, follow=True)
    assert "End all sessions that match" in text(asked)
    assert all(is_alive(site, each) for each in matching)
    url = f"{asked.request['PATH_INFO']}?{asked.request['QUERY_STRING']}"
    answer = confirmed(client, url)
    assert "3 sessions were ended." in said(answer)
    assert not any(is_alive(site, each) for each in matching)
    assert is_alive(site, other)
    assert listed(client) == short(other, own(client))
    (entry,) = LogEntry.objects.all()
    assert entry.object_repr == "who: users"
    asked = client.post(f"{PAGES}action/", {"action": "end_matching"}, follow=True)
    assert asked.request["PATH_INFO"] == f"{PAGES}end-others/"


@EVERY_ENGINE
def test_the_question_tells_how_many_match(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows twenty of them. If they are too many to count, it says that there may be more."""
    for _ in range(22):
        stored(site, ip="198.51.100.7")
    url = f"{PAGES}end-matching/?_changelist_filters=q%3D198.51.100.7"
    page = text(client.get(url))
    assert "and 2 more" in page
    # These are not all sessions that are live.
    assert "sessions are live now" not in page
    assert "There may be more" not in page
    monkeypatch.setattr(end_pages, "WITHIN", 21)
    assert "There may be more" in text(client.get(url))


@EVERY_ENGINE
def test_end_all_that_match_in_several_requests(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page goes on as the others do, and an outage is told with what has ended before it."""
    monkeypatch.setattr(end_pages, "REQUEST_SECONDS", 0)
    monkeypatch.setattr("django_sessionstores.admin.ending.MOST_AT_ONCE", 2)
    sessions = [stored(site, ip="198.51.100.7") for _ in range(5)]
    url = f"{PAGES}end-matching/?_changelist_filters=q%3D198.51.100.7"
    answer = client.post(url, {"confirmed": "yes"})
    assert "2 sessions were ended." in said(answer)
    assert "data-continues" in answer.content.decode()
    assert sum(is_alive(site, each) for each in sessions) == 3
    monkeypatch.setattr(end_pages, "REQUEST_SECONDS", 60)
    calls: list[str] = []

    def broken(name: str) -> None:
        calls.append(name)
        if name == "scan" and any(each.startswith("end") for each in calls):
            raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        answer = client.post(url, {"confirmed": "yes"})
    assert "Not everything was done: no route" in said(client.get(PAGES)) + said(answer)
    assert sum(is_alive(site, each) for each in sessions) == 1
    assert "1 session was ended." in said(confirmed(client, url))


# The export ---------------------------------------------------------------------------------------


def exported(client: Client, query: str = "") -> list[dict[str, str]]:
    """Return the lines of the file that the export of a list is."""
    url = f"{PAGES}action/" + (f"?_changelist_filters={query}" if query else "")
    answer = client.post(url, {"action": "export"})
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert "no-store" in answer["Cache-Control"]
    file = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(file)))


@EVERY_ENGINE
def test_the_export(site: Any, root: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all that the list has, however many pages, and no key and nothing of the data."""
    monkeypatch.setattr(export, "_AT_ONCE", 2)
    ada = person("ada")
    sessions = [stored(site, ada, password="hush-hush") for _ in range(5)]
    visitor = stored(site, agent=SAMSUNG, ip="2001:db8::1")
    with observed(site.storage) as calls:
        lines = exported(client)
    assert calls.count("scan") >= 3
    assert {each["id"] for each in lines} == {
        each.session_id for each in (*sessions, visitor, own(client))
    }
    assert "hush-hush" not in str(lines)
    assert not any(each.session_key in str(lines) for each in (*sessions, visitor))
    (line,) = exported(client, "who=visitors")
    assert (line["id"], line["user_id"], line["username"]) == (visitor.session_id, "", "")
    assert (line["device"], line["ip"]) == ("Samsung Internet on Android", "2001:db8::1")
    assert line["created"].endswith("+00:00")
    assert line["expired"] == "no"
    assert {each["username"] for each in exported(client, f"user={ada.pk}")} == {"ada"}
    entries = list(LogEntry.objects.order_by("pk"))
    assert [each.user for each in entries] == [root] * 3
    assert [each.object_repr for each in entries[:2]] == ["all sessions", "who: visitors"]
    assert {each.get_change_message() for each in entries} == {"Exported them as CSV."}


@ONE_ENGINE
def test_the_export_under_asgi(site: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server can send it part by part, which takes an async generator there."""
    monkeypatch.setattr(export, "_AT_ONCE", 2)
    sessions = [stored(site) for _ in range(5)]

    async def parts() -> list[str]:
        browser = AsyncClient()
        browser.cookies = client.cookies
        answer = await browser.post(f"{PAGES}action/", {"action": "export"})
        assert answer.is_async
        return [part.decode() async for part in answer.streaming_content]

    found = async_to_sync(parts)()
    assert len(found) >= 3
    for session in sessions:
        assert "".join(found).count(session.session_id) == 1


@ONE_ENGINE
@pytest.mark.parametrize(
    "agent", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", '=HYPERLINK("http://x")']
)
def test_a_cell_is_not_a_formula(site: Any, client: Client, agent: str) -> None:
    """A spreadsheet would calculate it, and anybody chooses their user agent."""
    stored(site, agent=agent)
    (line,) = exported(client, "who=visitors")
    assert line["user_agent"] == f"'{agent}"


@ONE_ENGINE
def test_an_export_that_is_cut_short_says_so(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look like a whole one. If nothing was read, there is no file."""
    monkeypatch.setattr(export, "_AT_ONCE", 2)
    for _ in range(5):
        stored(site)
    calls: list[str] = []

    def broken(name: str) -> None:
        calls.append(name)
        if name == "scan" and calls.count("scan") == 2:
            raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        lines = exported(client)
    assert len(lines) == 3
    assert (lines[-1]["id"], lines[-1]["user_id"]) == ("This file is incomplete.", "no route")
    calls.append("scan")
    calls[:] = ["scan"]
    with observed(site.storage, before=broken):
        answer = client.post(f"{PAGES}action/", {"action": "export"})
    assert answer.status_code == 503


# In a browser -------------------------------------------------------------------------------------


@ONE_ENGINE
def test_the_head_of_the_list_on_a_phone(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """The links that sort are below the box that selects all; a sentence has no gaps."""
    ada = person("ada")
    stored(site, ada)

    def scene(browser: Browser) -> tuple[float, list[float], float]:
        size = {"width": WIDTHS["phone"], "height": 900}
        page = window(browser, served, client, viewport=size).new_page()
        page.goto(f"{PAGES}?user={ada.pk}")
        name = page.locator(".ss-subject strong").evaluate("""name => {
            const before = document.createRange();
            before.selectNodeContents(name.previousSibling);
            return name.getBoundingClientRect().left - before.getBoundingClientRect().right;
        }""")
        bottom = "each => each.getBoundingClientRect().bottom"
        tops = "all => all.map(each => each.getBoundingClientRect().top)"
        box = page.locator("td.ss-check label").first.evaluate(bottom)
        links = page.locator(".ss-list thead a").evaluate_all(tops)
        page.context.close()
        return box, links, name

    box, links, gap = chromium.do(scene)
    assert links
    assert all(top >= box for top in links)
    assert gap < 1


@ONE_ENGINE
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_a_reader_filters_sorts_and_ends(
    site: Any, client: Client, served: Site, chromium: Chromium, scripts: bool
) -> None:
    """From the list, with and without JavaScript."""
    theirs = [stored(site, agent=SAMSUNG) for _ in range(2)]
    stored(site, agent=FIREFOX)

    def scene(browser: Browser) -> tuple[str, str, str]:
        options = {"java_script_enabled": scripts}
        page = window(browser, served, client, **options).new_page()
        page.goto(PAGES)
        page.get_by_role("link", name="Samsung Internet on Android").click()
        page.get_by_role("columnheader", name="Began").get_by_role("link").click()
        counter = ""
        for box in page.get_by_role("checkbox", name="Select session").all():
            box.check()
        if scripts:
            counter = page.locator("#ss-counter").inner_text()
        page.get_by_label("Action:").select_option("end")
        page.get_by_role("button", name="Go").click()
        page.get_by_role("button", name="End these sessions").click()
        told, url = page.locator(".messagelist").inner_text(), page.url
        page.context.close()
        return counter, told, urlsplit(url).query

    counter, told, query = chromium.do(scene)
    assert counter == ("2 of 2 selected" if scripts else "")
    assert told == "2 sessions were ended."
    assert parse_qs(query) == {"device": ["Samsung Internet on Android"], "o": ["began"]}
    assert not any(is_alive(site, each) for each in theirs)
    assert len(Inventory().list().sessions) == 2

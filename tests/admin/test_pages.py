"""The pages in the admin, the same on every engine that lists: what they show, end and keep."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection
from django.db.models.query import ModelIterable
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path
from msgspec import structs

from django_sessionstores.admin import SessionAdmin, end_pages, ending, listing
from django_sessionstores.admin.session_row import columns
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import draw_key, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory, Total
from django_sessionstores.inventory import ending as inventory_ending
from django_sessionstores.models import Session, SessionStatistics
from django_sessionstores.operations import overview
from django_sessionstores.storages import inspection
from django_sessionstores.testing import HOUR, at, observed
from tests.admin.pages import (
    DATA,
    END,
    EVERY_ENGINE,
    EXPORT,
    ONE_ENGINE,
    PAGES,
    SECRETS,
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
from tests.browser import Chromium, Site, serve
from tests.pages import FIREFOX, MIDDLEWARE, SAMSUNG, WIDTHS, problems_of, window
from tests.sessions.test_lifetimes import limits
from tests.stored_sessions import is_alive

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

UNKNOWN = session_id("nobody's")
SECRET = "hush-hush"

OURS = MIDDLEWARE[0]
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"


# The list -----------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_the_list_shows_what_there_is(site: Any, root: Any, client: Client) -> None:
    """The list shows the user, device and IP address of each session, and marks the reader's
    own."""
    ada = person("ada")
    session, visitor = stored(site, ada), stored(site, ip="192.0.2.2")
    page = text(client.get(PAGES))
    assert listed(client) == short(session, visitor, own(client))
    for shown in ("ada", "Firefox on Linux", "192.0.2.1", "192.0.2.2", "visitor", "just now"):
        assert shown in page
    assert page.count("this is you") == 1
    assert f'value="{session.session_id}"' in page
    assert f'value="{own(client).session_id}"' not in page


@ONE_ENGINE
def test_a_column_needs_no_more_than_a_line(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heading, the cells and the labels that phones show come from one list."""
    kept = columns()
    more = kept[-1]._replace(heading="Twice", css_class="ss-twice")
    monkeypatch.setattr("django_sessionstores.admin.list_page.columns", lambda: [*kept, more])
    stored(site)
    page = text(client.get(PAGES)).partition('<table class="ss-list">')[2]
    headings = re.findall(r'<th scope="col"[^>]*>(?:<a [^>]*>)?(.*?)(?:</a>)?</th>', page)
    assert headings == [column.heading for column in (*kept, more)]
    assert re.findall(r'<td data-label="(.*?)"', page) == headings[1:] * 2
    assert page.count("ss-twice") == 3


@EVERY_ENGINE
def test_no_page_shows_a_key_or_a_secret(site: Any, root: Any, client: Client) -> None:
    """Anyone who sees a key controls the session."""
    session = stored(site, root, password=SECRET, url=f"/?token={SECRET}")
    ended = stored(site)
    pages = [
        *(PAGES, f"{PAGES}overview/", detail(session), f"{PAGES}{session.session_id}/end/"),
        *(
            f"{PAGES}user/{root.pk}/end/",
            f"{PAGES}end-others/",
            f"/admin/auth/user/{root.pk}/change/",
        ),
    ]
    answers = [client.get(page) for page in pages]
    answers.append(confirmed(client, f"{PAGES}{ended.session_id}/end/"))
    entries = [f"{each.object_repr} {each.change_message}" for each in LogEntry.objects.all()]
    keys = [session.session_key, ended.session_key, own(client).session_key]
    assert len(entries) == 1
    for shown in (*map(text, answers), *entries):
        for secret in (SECRET, *keys, *(key[:20] for key in keys)):
            assert secret not in shown
    assert [answer.status_code for answer in answers] == [200] * len(answers)


@EVERY_ENGINE
def test_search(site: Any, client: Client) -> None:
    """An administrator can search for anything that a log or a user tells."""
    ada = person("ada")
    session, other = stored(site, ada, ip="192.0.2.9"), stored(site, ip="2001:db8::1")
    assert listed(client, q="ada") == short(session)
    assert listed(client, q=f"user:{ada.pk}") == short(session)
    assert listed(client, user=str(ada.pk)) == short(session)
    assert listed(client, q="192.0.2.9") == short(session)
    assert listed(client, q="ip:2001:0db8:0::1") == short(other)
    for network in ("192.0.", "192.0.2", "192.0.2.0/28", "ip:192.0.2."):
        assert listed(client, q=network) == short(session), network
    for network in ("2001:db8:", "2001:db8::/64", "ip:2001:db8"):
        assert listed(client, q=network) == short(other), network
    assert listed(client, q="192.1.") == listed(client, q="192.0.2.0/29") == set()
    assert listed(client, q=f"id:{other.session_id[:8]}") == short(other)
    answer = client.get(PAGES, {"q": other.session_id.upper()})
    assert answer["Location"] == detail(other)


@ONE_ENGINE
def test_a_search_for_nothing_that_is_there(site: Any, client: Client) -> None:
    """The page says what can be searched for."""
    stored(site)
    for query in ("nobody", "ip:nonsense", "id:xyz", "abc12"):
        page = text(client.get(PAGES, {"q": query}))
        assert "No user, IP address or session id matches" in page
        assert listed(client, q=query) == set()


@ONE_ENGINE
def test_a_search_that_means_two_users(site: Any, client: Client) -> None:
    """The page offers both, because ending the sessions of the wrong user is worse than a
    question."""
    ada = person("ada")
    person(str(ada.pk))
    page = text(client.get(PAGES, {"q": str(ada.pk)}))
    assert "Several users match" in page
    assert f"?user={ada.pk}" in page


@ONE_ENGINE
def test_a_search_for_a_part_of_a_name(site: Any, client: Client) -> None:
    """One user that matches is the one; of several, the reader chooses."""
    ada = person("ada", email="lovelace@example.com", first_name="Augusta", last_name="King")
    bob = person("bob", email="bob@example.com")
    session, other = stored(site, ada), stored(site, bob)
    for query in ("LOVELACE@example.com", "lovel", "august", "king AUG", "AD", "user:ad"):
        assert listed(client, q=query) == short(session), query
    answer = client.get(PAGES, {"q": "example.com"})
    assert "Several users match" in text(answer)
    assert "on this page" not in text(answer)
    urls = dict(answer.context["choice_urls"])
    assert list(urls) == [f"ada ({ada.pk})", f"bob ({bob.pk})"]
    (found,) = client.get(urls[f"bob ({bob.pk})"]).context["sessions"]
    assert found.info.id == other.session_id
    assert "No user, IP address or session id matches" in text(client.get(PAGES, {"q": "king bob"}))


@ONE_ENGINE
def test_a_search_for_a_deleted_user(site: Any, client: Client) -> None:
    """The log names a primary key. If it is also a username, both users are offered."""
    session = stored(site)
    session["_auth_user_id"] = "4711"
    session.save()
    assert listed(client, q="4711") == listed(client, q="user:4711") == short(session)
    namesake = person("4711")
    answer = client.get(PAGES, {"q": "4711"})
    assert dict(answer.context["choice_urls"]).keys() == {"4711", f"4711 ({namesake.pk})"}


@ONE_ENGINE
@pytest.mark.parametrize(
    ("before", "key"),
    [("", ""), ("sessionid=", ""), ("", "z" * 200)],
    ids=["key", "pair", "cookie"],
)
def test_a_key_that_was_pasted_is_not_shown_again(
    site: Any, client: Client, before: str, key: str
) -> None:
    """It is what people have when they look at their cookies."""
    key = key or draw_key()
    answer = client.get(PAGES, {"q": before + key}, follow=True)
    assert "may be a session key" in text(answer)
    assert key not in text(answer)
    assert answer.request["QUERY_STRING"] == ""


@EVERY_ENGINE
def test_filters(site: Any, client: Client) -> None:
    """Filters can be combined."""
    ada = person("ada")
    with at(now() - 2 * HOUR):
        idle = stored(site, ada)
    visitor, over = stored(site), expired(site)
    me = own(client)
    assert listed(client, who="users") == short(idle, me)
    assert listed(client, who="visitors") == short(visitor)
    assert listed(client, idle="1") == short(idle)
    assert listed(client, idle="1", who="visitors") == set()
    assert listed(client, idle="nonsense") == short(idle, visitor, me)
    if not site.storage.self_expiring:
        assert listed(client, state="expired") == short(over)
        assert listed(client, state="all") == short(idle, visitor, me, over)


@EVERY_ENGINE
def test_pages_hold_each_session_once(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One leads to the next, and keeps what was looked for."""
    monkeypatch.setattr(listing, "PER_PAGE", 4)
    visitors = [stored(site) for _ in range(10)]
    found: list[str] = []
    url = f"{PAGES}?who=visitors"
    for _ in range(10):
        page = text(client.get(url))
        found += re.findall(r"<code>([0-9a-f]{12})</code>", page)
        more = re.search(r'<a href="([^"]+)" rel="next"', page)
        if more is None:
            break
        url = more[1].replace("&amp;", "&")
        assert parse_qs(urlsplit(url).query)["who"] == ["visitors"]
        assert "First page" in text(client.get(url))
    assert sorted(found) == sorted(short(*visitors))


@ONE_ENGINE
def test_a_page_that_is_not_there(site: Any, client: Client) -> None:
    """Anybody can type a cursor into an address bar."""
    assert "Start with the first page" in text(client.get(PAGES, {"cursor": "nonsense"}))


@EVERY_ENGINE
def test_a_rare_session_is_not_looked_for_forever(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million sessions from other addresses would be read for one page; and of a user, where
    there is no index."""
    monkeypatch.setattr(listing, "WITHIN", 3)
    monkeypatch.setattr(listing, "PER_PAGE", 2)
    for _ in range(9):
        stored(site)
    for parameters in ({"q": "192.0.2.77"}, {"user": "77"}):
        with observed(site.storage) as calls:
            page = text(client.get(PAGES, parameters))
        assert calls.count("scan") <= 2
        if calls.count("scan") == 2:
            assert "Load more" in page
            assert "There may be more: a page searches only some of the sessions." in page


@EVERY_ENGINE
def test_as_many_calls_with_many_sessions(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This counts the calls of the store and the queries for users."""
    monkeypatch.setattr(listing, "PER_PAGE", 5)
    monkeypatch.setattr(overview, "SAMPLE", 5)
    # A sample begins at a random id, and goes on with the first ids if it meets the last one.
    monkeypatch.setattr(inspection.secrets, "token_hex", lambda size: "00" * size)
    ada = person("ada")

    pages = [PAGES, f"{PAGES}overview/"]
    if site.storage.indexes_users:
        pages.append(f"{PAGES}?user={ada.pk}")

    def calls() -> list[tuple[list[str], int]]:
        counted = []
        for page in pages:
            with observed(site.storage) as names, CaptureQueriesContext(connection) as queries:
                assert client.get(page).status_code == 200
            counted.append((names, len(queries)))
        return counted

    for _ in range(6):
        stored(site, ada)
    few = calls()
    for _ in range(30):
        stored(site, ada)
    assert calls() == few


# One session --------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_one_session(site: Any, root: Any, client: Client) -> None:
    """Its clocks and its data, as far as the store has them."""
    session = stored(site, root, cart={"apples": 3})
    page = text(client.get(detail(session)))
    for shown in ("Began, or logged in", "Ends if unchanged", FIREFOX, session.session_id):
        assert shown in page
    if site.storage.holds_in_key:
        assert "the session data is only in the browser" in page
    else:
        assert "apples" in page
        assert "hidden: its name is that of a secret" not in page


@ONE_ENGINE
def test_secrets_are_shown_to_who_may_and_asks(site: Any) -> None:
    """This needs a permission of its own and a POST, and leaves an entry in the log."""
    session = stored(site, access_token=SECRET, url=f"/?token={SECRET}")
    url = f"{PAGES}{session.session_id}/secrets/"
    for number, permissions in enumerate([(VIEW,), (VIEW, DATA), (VIEW, SECRETS)]):
        client = signed_in(person(f"ada{number}", *permissions))
        assert url not in text(client.get(detail(session)))
        assert client.post(url).status_code == 403
    assert not LogEntry.objects.exists()
    bob = person("bob", VIEW, DATA, SECRETS)
    client = signed_in(bob)
    page = text(client.get(detail(session)))
    assert SECRET not in page
    assert url in page
    assert client.get(url).status_code == 405
    revealed = client.post(url)
    assert text(revealed).count(SECRET) == 2
    assert "no-store" in revealed["Cache-Control"]
    (entry,) = LogEntry.objects.all()
    assert (entry.user, entry.object_id) == (bob, session.session_id)
    assert SECRET not in text(client.get(detail(session)))


@ONE_ENGINE
def test_a_session_with_an_absolute_end(site: Any, client: Client) -> None:
    """Activity does not move the absolute end."""
    session = stored(site)
    assert "Ends in any case" not in text(client.get(detail(session)))
    for timeout in (3600, 10**12):
        with override_settings(SESSIONSTORES={"ABSOLUTE_TIMEOUT": timeout}):
            assert "Ends in any case" in text(client.get(detail(session)))


@ONE_ENGINE
def test_a_session_with_strange_texts_and_no_end(site: Any, client: Client) -> None:
    """Half an emoji cannot be sent, and some time zones have no later date than the last one."""
    session = stored(site)
    session.update({"half \ud83d": "caf\udce9.txt", "list": [{"\udcff": "x"}]})
    session.set_expiry(10**30)
    session.save()
    with override_settings(TIME_ZONE="Pacific/Kiritimati"):
        page = text(client.get(detail(session)))
        assert "9999" in page
        assert "9999" in text(client.get(PAGES))
    for shown in (r"half \ud83d", r"caf\udce9.txt", r"\udcff"):
        assert shown in page


@EVERY_ENGINE
@pytest.mark.parametrize("page", ["change", "end"])
def test_an_id_that_is_not_there(site: Any, client: Client, page: str) -> None:
    """It may have ended a moment ago; and what is no id is not asked of a store."""
    for id_ in (UNKNOWN, "nonsense", "x" * 40):
        with observed(site.storage) as calls:
            answer = client.get(f"{PAGES}{id_}/{page}/")
        assert calls.count("lookup") == (id_ == UNKNOWN)
        assert "There is no live session with this id" in said(client.get(answer["Location"]))
    answer = confirmed(client, f"{PAGES}{UNKNOWN}/end/")
    assert "There is no live session with this id" in said(answer)


@EVERY_ENGINE
def test_a_user_that_cannot_be(site: Any, client: Client) -> None:
    """An address that somebody has typed is no error of the server's."""
    for answer in (client.get(f"{PAGES}user/%00/end/"), confirmed(client, f"{PAGES}user/%00/end/")):
        assert answer.status_code in {200, 302}
    assert client.get(PAGES, {"user": "\0"}).status_code == 200
    assert client.get(PAGES, {"q": "user:\0"}).status_code == 200


@ONE_ENGINE
def test_data_that_cannot_be_read(site: Any, client: Client) -> None:
    """This happens after a change of keys. The rest of the page is shown."""
    session = stored(site)
    record = site.storage.read(session.session_id)
    damaged = structs.replace(record, payload=record.payload[:-1], version=2)
    site.storage.update(damaged, record, now())
    page = text(client.get(detail(session)))
    assert "It cannot be shown: " in page
    assert session.session_id in page


# Ending -------------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_end_one(site: Any, root: Any, client: Client) -> None:
    """The page asks first and accepts only a POST. The log says who ended the session."""
    ada = person("ada")
    session, other = stored(site, ada), stored(site, ada)
    url = f"{PAGES}{session.session_id}/end/"
    question = text(client.get(url))
    assert "End this session?" in question
    assert is_alive(site, session)
    answer = confirmed(client, url)
    assert "1 session was ended." in said(answer)
    assert not is_alive(site, session)
    assert is_alive(site, other)
    (entry,) = LogEntry.objects.all()
    assert (entry.user, entry.object_id) == (root, session.session_id)
    assert "ada" in entry.object_repr
    assert "no live session" in said(confirmed(client, url))


@EVERY_ENGINE
def test_end_selected_ones(site: Any, client: Client) -> None:
    """Those that are gone already are not counted, and one's own stays."""
    sessions = [stored(site) for _ in range(3)]
    gone, kept = stored(site), stored(site)
    Inventory().end(gone.session_id)
    ids = [each.session_id for each in (*sessions, gone, own(client))]
    question = client.post(f"{PAGES}end/", {"id": ids})
    assert "End 4 sessions?" in text(question)
    assert "This one stays." in text(question)
    assert all(is_alive(site, each) for each in sessions)
    with observed(site.storage) as calls:
        answer = confirmed(client, f"{PAGES}end/", id=ids)
    assert [each for each in calls if each.startswith(("lookup", "end"))] == [
        "lookup_many",
        "end_many",
    ]
    assert "3 sessions were ended." in said(answer)
    assert "1 session had ended already." in said(answer)
    assert "Your own session was kept" in said(answer)
    assert not any(is_alive(site, each) for each in sessions)
    assert is_alive(site, kept)
    assert LogEntry.objects.count() == 3


@ONE_ENGINE
def test_end_none(site: Any, client: Client) -> None:
    """The user has selected nothing, or the ids do not exist."""
    for ids in ([], ["nonsense"], [draw_key()]):
        answer = client.post(f"{PAGES}end/", {"id": ids}, follow=True)
        assert "No session was selected." in said(answer)
    assert client.post(f"{PAGES}end/", {"id": [UNKNOWN]}, follow=True).status_code == 200
    only_own = client.post(f"{PAGES}end/", {"id": [own(client).session_id]})
    assert "only your own session" in text(only_own)


@EVERY_ENGINE
def test_end_all_of_a_user(site: Any, client: Client) -> None:
    """The history of that user has an entry."""
    ada, bob = person("ada"), person("bob")
    sessions, other = [stored(site, ada) for _ in range(3)], stored(site, bob)
    url = f"{PAGES}user/{ada.pk}/end/"
    assert "End all sessions of ada?" in text(client.get(url))
    assert all(is_alive(site, each) for each in sessions)
    assert "3 sessions were ended." in said(confirmed(client, url))
    assert not any(is_alive(site, each) for each in sessions)
    assert is_alive(site, other)
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.object_repr) == (str(ada.pk), "ada")
    assert "0 sessions were ended." in said(confirmed(client, url))
    assert LogEntry.objects.count() == 1


@EVERY_ENGINE
def test_end_all_of_a_user_whose_sessions_are_hard_to_find(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an index of users, the page does not say that there is nothing to end."""
    monkeypatch.setattr(end_pages, "WITHIN", 3)
    monkeypatch.setattr(overview, "SAMPLE", 3)
    ada = person("ada")
    session = stored(site, ada)
    for _ in range(9):
        stored(site)
    url = f"{PAGES}user/{ada.pk}/end/"
    page = text(client.get(url))
    assert "There is no live session to end" not in page
    is_counted = "1 session is live now." in page
    assert is_counted is site.storage.indexes_users
    assert ("There may be more" in page) is not is_counted
    assert "1 session was ended." in said(confirmed(client, url))
    assert not is_alive(site, session)


@ONE_ENGINE
def test_numbers_of_many_sessions_have_separators(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the question, and in the message after it."""
    ada = person("ada")
    for _ in range(21):
        stored(site, ada)
    monkeypatch.setattr(end_pages, "count_of_user", lambda *_: 12345)
    monkeypatch.setattr(end_pages, "end_many", lambda page, *_: say_many(page))

    def say_many(page: Any) -> Any:
        return ending.end_many(page, lambda: Total(12345, is_complete=True))

    url = f"{PAGES}user/{ada.pk}/end/"
    page = text(client.get(url))
    assert "12,345 sessions are live now." in page
    assert "and 12,325 more" in page
    assert "12,345 sessions were ended." in said(confirmed(client, url))


@EVERY_ENGINE
def test_end_all_of_oneself_leaves_this_one(site: Any, root: Any, client: Client) -> None:
    """Nobody wants to be logged out by that."""
    session = stored(site, root)
    url = f"{PAGES}user/{root.pk}/end/"
    assert "This one stays." in text(client.get(url))
    assert "1 session was ended." in said(confirmed(client, url))
    assert not is_alive(site, session)
    assert client.get(PAGES).status_code == 200


@ONE_ENGINE
def test_end_all_of_a_user_who_is_gone(site: Any, client: Client) -> None:
    """Sessions of a deleted user stay in the store."""
    session = site.SessionStore()
    session["_auth_user_id"] = "a/b c"
    session.save()
    page = text(client.get(PAGES, {"user": "a/b c"}))
    link = re.search(rf'href="({PAGES}user/[^"]+)"', page)
    assert link is not None
    assert "1 session was ended." in said(confirmed(client, link[1]))
    assert not is_alive(site, session)


@EVERY_ENGINE
def test_end_all_but_mine(site: Any, client: Client) -> None:
    """A site may need this after a breach."""
    sessions = [stored(site, person("ada")), stored(site)]
    url = f"{PAGES}end-others/"
    assert "End all sessions but yours?" in text(client.get(url))
    assert "2 sessions were ended." in said(confirmed(client, url))
    assert not any(is_alive(site, each) for each in sessions)
    assert listed(client) == short(own(client))


@EVERY_ENGINE
def test_end_all_but_mine_under_a_new_secret_key(site: Any, client: Client) -> None:
    """Django cycles the key of the first request that it knows by the previous one."""
    session = stored(site)
    with override_settings(SECRET_KEY="a newer one", SECRET_KEY_FALLBACKS=["tests only"]):
        assert "1 session was ended." in said(confirmed(client, f"{PAGES}end-others/"))
        assert not is_alive(site, session)
        assert client.get(PAGES).status_code == 200


@EVERY_ENGINE
def test_purge(site: Any, client: Client) -> None:
    """The page removes expired sessions only."""
    session = stored(site)
    # A store that drops them by itself does so by its own clock.
    over = [] if site.storage.self_expiring else [expired(site) for _ in range(2)]
    assert "Purge expired sessions?" in text(client.get(f"{PAGES}purge/"))
    answer = said(confirmed(client, f"{PAGES}purge/"))
    if over:
        assert f"{len(over)} expired sessions were purged." in answer
        (entry,) = LogEntry.objects.all()
        assert entry.get_change_message() == "Deleted sessions “expired sessions: 2”."
    assert is_alive(site, session)
    assert listed(client, state="all") == short(session, own(client))


@ONE_ENGINE
def test_the_sessions_of_a_deleted_user(site: Any, client: Client) -> None:
    """They say that the user is deleted, and no link leads to the user's page, which is gone."""
    ada = person("ada")
    session = stored(site, ada)
    key, link = ada.pk, f"/admin/auth/user/{ada.pk}/change/"
    page = detail(session)
    assert link in client.get(page).content.decode()
    with connection.cursor() as cursor:  # No signal is sent, and no session ends.
        cursor.execute("DELETE FROM auth_user WHERE id = %s", [key])
    for address in (PAGES, page, f"{PAGES}{session.session_id}/end/"):
        answer = client.get(address)
        assert f"deleted user {key}" in text(answer)
        assert link not in answer.content.decode()


@EVERY_ENGINE
def test_more_than_one_request_can_end(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says how far it is and continues, by itself where scripts run. A link does not."""
    monkeypatch.setattr(end_pages, "REQUEST_SECONDS", 0)
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    user = person("ada")
    for page in ("end-others/", f"user/{user.pk}/end/"):
        sessions = [stored(site, user) for _ in range(3)]
        assert "data-continues" not in client.get(f"{PAGES}{page}?continues=1").content.decode()
        answer = client.post(f"{PAGES}{page}", {"confirmed": "yes"})
        assert "2 sessions were ended. There may be more" in said(answer)
        assert answer.status_code == 200
        assert (
            f'action="{PAGES}{page}" class="ss-actions" data-continues' in answer.content.decode()
        )
        assert "pages.js" in answer.content.decode()
        assert sum(is_alive(site, each) for each in sessions) == 1
        answer = confirmed(client, f"{PAGES}{page}")
        assert "1 session was ended." in said(answer)
        assert "data-continues" not in answer.content.decode()
        assert sum(is_alive(site, each) for each in sessions) == 0
    messages = [each.get_change_message() for each in LogEntry.objects.order_by("pk")]
    assert len(messages) == 4
    assert messages == [
        f"Deleted sessions “{whose}: {number}”."
        for whose in ("all other sessions", "ada")
        for number in (2, 1)
    ]


@EVERY_ENGINE
def test_an_outage_in_the_middle(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that ended before the outage stay ended, and the page does not claim that the others
    have."""
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 1)
    sessions = [stored(site, person("ada")) for _ in range(1)] + [stored(site) for _ in range(2)]
    done: list[str] = []

    def broken(name: str) -> None:
        if name in {"delete", "end_many"}:
            done.append(name)
            if len(done) > 1:
                raise StorageUnavailable("no route")

    ids = [each.session_id for each in sessions]
    with observed(site.storage, before=broken):
        answer = confirmed(client, f"{PAGES}end/", id=ids)
    assert "1 session was ended." in said(answer)
    assert "2 sessions may still be live: no route" in said(answer)
    done.clear()
    with observed(site.storage, before=broken):
        answer = confirmed(client, f"{PAGES}end-others/")
    assert "1 session was ended. Not everything was done: no route" in said(answer)
    assert sum(is_alive(site, each) for each in sessions) == 1
    assert LogEntry.objects.count() == 2
    done.append("one")
    with observed(site.storage, before=broken):
        answer = client.post(f"{PAGES}end-others/", {"confirmed": "yes"})
    assert answer.status_code == 503
    assert "no route" in text(answer)
    assert LogEntry.objects.count() == 2


# Who may ------------------------------------------------------------------------------------------


@ONE_ENGINE
@pytest.mark.parametrize(
    ("permissions", "sees", "ends", "reads"),
    [
        ([], False, False, False),
        ([VIEW], True, False, False),
        ([VIEW, END], True, True, False),
        ([VIEW, DATA], True, False, True),
        ([END, DATA], False, False, False),
    ],
    ids=["none", "view", "end", "data", "not view"],
)
def test_permissions(
    site: Any, permissions: list[str], sees: bool, ends: bool, reads: bool
) -> None:
    """Viewing sessions, ending them and seeing their data need three permissions."""
    session, other = stored(site, cart={"apples": 3}), expired(site)
    client = signed_in(person("ada", *permissions))
    assert (PAGES in text(client.get("/admin/"))) is sees
    for url in (PAGES, f"{PAGES}overview/", detail(session)):
        page = client.get(url)
        assert page.status_code == (200 if sees else 403)
        offers = "/end/" in text(page) or 'value="end"' in text(page)
        assert offers is (ends and url != f"{PAGES}overview/")
        assert ("apples" in text(page)) is (reads and url == detail(session))
    pk = get_user_model()._default_manager.get(username="ada").pk
    actions = (f"{session.session_id}/end/", f"user/{pk}/end/", "end-others/", "purge/")
    for action in actions:
        assert client.get(f"{PAGES}{action}").status_code == (200 if ends else 403)
    assert is_alive(site, session)
    for action in ("purge/", "end/", *actions):
        answer = client.post(f"{PAGES}{action}", {"confirmed": "1", "id": session.session_id})
        assert answer.status_code == (302 if ends else 403)
    assert is_alive(site, session) is not ends
    assert bool(Inventory().list(expired=True).sessions) is not ends
    assert other.session_key


@ONE_ENGINE
def test_nobody_gets_in_without_signing_in(site: Any) -> None:
    """A user who is not a member of the staff does not get in, either."""
    session = stored(site)
    plain = get_user_model()._default_manager.create(username="plain")
    for client in (Client(), signed_in(plain)):
        for url in (PAGES, detail(session), f"{PAGES}overview/"):
            assert client.get(url).status_code == 302
        assert client.post(f"{PAGES}{session.session_id}/end/").status_code == 302
    assert is_alive(site, session)


@ONE_ENGINE
def test_a_get_and_a_forged_post_end_nothing(site: Any, root: Any) -> None:
    """Links are followed by machines, and forms sent from other sites."""
    session, over = stored(site), expired(site)
    client = Client(enforce_csrf_checks=True)
    client.force_login(root)
    for action in (f"{session.session_id}/end/", f"user/{root.pk}/end/", "end-others/", "purge/"):
        client.get(f"{PAGES}{action}", {"confirmed": "yes"})
        assert client.post(f"{PAGES}{action}", {"confirmed": "yes"}).status_code == 403
    parameters = {"confirmed": "yes", "id": session.session_id}
    assert client.get(f"{PAGES}end/", parameters).status_code == 405
    assert client.post(f"{PAGES}end/", parameters).status_code == 403
    assert is_alive(site, session)
    assert len(Inventory().list(expired=True).sessions) == 1
    assert over.session_key


@ONE_ENGINE
def test_the_model_has_no_other_pages(site: Any, client: Client) -> None:
    """None that would add, change or delete a row; and permissions for none."""
    for page in ("add/", f"{UNKNOWN}/delete/", f"{UNKNOWN}/history/"):
        assert client.get(f"{PAGES}{page}").status_code == 404
    ours = Permission.objects.filter(content_type__app_label="django_sessionstores")
    assert {each.codename for each in ours} == {VIEW, END, EXPORT, DATA, SECRETS}


@ONE_ENGINE
def test_the_pages_of_another_admin_site(site: Any, client: Client) -> None:
    """They are where that site is, and lead to one another there."""
    staff = AdminSite(name="staff")
    staff.register(Session, SessionAdmin)
    session = stored(site)

    class Urls:
        urlpatterns = [path("staff/", staff.urls)]

    pages = "/staff/django_sessionstores/session/"
    with override_settings(ROOT_URLCONF=Urls):
        listed = client.get(pages).content.decode()
        assert f'href="{pages}{session.session_id}/change/"' in listed
        assert PAGES not in listed
        shown = client.get(f"{pages}{session.session_id}/change/").content.decode()
        assert f'href="{pages}{session.session_id}/end/"' in shown
        assert PAGES not in shown


# The overview -------------------------------------------------------------------------------------


@EVERY_ENGINE
def test_the_overview(site: Any, client: Client) -> None:
    """The page shows numbers and the state of the store."""
    stored(site, person("ada"))
    stored(site)
    stored(site)
    expired(site)
    page = text(client.get(f"{PAGES}overview/"))
    figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", page))
    assert (figures["Live"], figures["Logged in"], figures["Visitors"]) == ("4", "2", "2")
    if not site.storage.self_expiring:
        assert figures["Expired, waiting"] == "1"
    assert "sample" not in page
    assert f"django_sessionstores.backends.{site.name}" in page
    assert "SESSION_COOKIE_AGE = 1209600 (14 days)" in page


@EVERY_ENGINE
def test_the_overview_of_more_than_it_looks_at(
    site: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database counts all, and other stores say that their figures are of a random sample."""
    monkeypatch.setattr(overview, "SAMPLE", 3)
    for _ in range(5):
        stored(site)
    expired(site)
    with observed(site.storage) as calls:
        page = text(client.get(f"{PAGES}overview/"))
    if site.case.database is not None:
        assert "sample" not in page
        figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", page))
        assert (figures["Live"], figures["Logged in"], figures["Visitors"]) == ("6", "1", "5")
        assert figures["Expired, waiting"] == "1"
        assert "scan" not in calls
        return
    assert "a random sample of 3 sessions" in page
    if not site.storage.self_expiring:
        assert "<dt>Expired, waiting</dt><dd>at least " in page
    # The expired one may be among the three.
    assert re.search(">of [23]</span>", page)
    live = "<dd>6</dd>" if site.storage.indexes_counts else "<dd>at least [23]</dd>"
    assert re.search(live, page)


# What is not known --------------------------------------------------------------------------------


@ONE_ENGINE
@pytest.mark.parametrize(
    ("middleware", "options", "records_clients", "records_reads"),
    [
        (OURS, {}, True, True),
        (OURS, {"ACTIVITY_INTERVAL": 0}, True, False),
        (DJANGOS, {}, False, False),
        (DJANGOS, {"IDLE_TIMEOUT": 3600}, False, True),
    ],
)
def test_pages_say_what_is_not_known_and_why(
    site: Any,
    root: Any,
    middleware: str,
    options: dict[str, Any],
    records_clients: bool,
    records_reads: bool,
) -> None:
    """Pages name the setting that decides, and give no time a name that it does not deserve."""
    session = stored(site, person("ada"))
    with limits(**options), override_settings(MIDDLEWARE=[middleware, *MIDDLEWARE[1:]]):
        client = signed_in(root)
        for url in (PAGES, f"{PAGES}overview/", detail(session), f"{detail(session)[:-7]}end/"):
            page = text(client.get(url))
            has_notes = not url.endswith("/end/")
            assert ("are not stored, because MIDDLEWARE has no" in page) is (
                has_notes and not records_clients
            )
            assert ("The last change is when a session" in page) is (
                has_notes and not records_reads
            )
            assert (re.search("[Ll]ast activity", page) is not None) is records_reads
            assert (re.search("Last change|the last change<", page) is not None) is (
                not records_reads
            )
        page = text(client.get(detail(session)))
        assert ("Ends if unused" in page) is ("IDLE_TIMEOUT" in options)
        assert ("Ends if unchanged" in page) is ("IDLE_TIMEOUT" not in options)


@ONE_ENGINE
def test_the_session_of_the_reader_is_active_now(site: Any, root: Any) -> None:
    """The stored time of its last activity does not matter."""
    moment = now()
    with at(moment - 4 * 60_000):
        client = signed_in(root)
    with at(moment):
        page = text(client.get(PAGES))
    row = page.partition("this is you")[2].partition("</tr>")[0]
    assert re.findall(">([a-z0-9 \xa0]+)</time>", row)[:2] == ["4\xa0minutes\xa0ago", "just now"]


# The user's page ----------------------------------------------------------------------------------


@EVERY_ENGINE
def test_the_page_of_a_user_links_to_the_sessions(site: Any, client: Client) -> None:
    """The link shows how many there are."""
    ada = person("ada")
    stored(site, ada)
    stored(site, ada)
    page = text(client.get(f"/admin/auth/user/{ada.pk}/change/"))
    assert f'href="{PAGES}?user={ada.pk}"' in page
    assert "Sessions (2)" in page


@ONE_ENGINE
def test_the_page_of_a_user_without_the_sessions(site: Any, client: Client) -> None:
    """The page belongs to Django. It works for staff who may not see sessions, and while the store
    is unreachable."""
    ada, bob = person("ada"), person("bob")
    bob.user_permissions.add(Permission.objects.get(codename="view_user"))
    url = f"/admin/auth/user/{ada.pk}/change/"
    assert "Sessions" not in text(signed_in(bob).get(url))
    with mock.patch.object(type(site.storage), "count", side_effect=StorageUnavailable("away")):
        page = client.get(url)
    assert page.status_code == 200
    assert re.search(r">Sessions\s*</a>", text(page))
    assert client.get("/admin/auth/user/add/").status_code == 200
    assert client.get("/admin/auth/group/add/").status_code == 200


# Other engines, outages ---------------------------------------------------------------------------


@pytest.mark.engines("cookie:unregistered", "cache:memcached")
def test_an_engine_that_cannot_list(engine: Any) -> None:
    """The pages say what would change that; none claims that nobody is there."""
    middleware = [
        "django_sessionstores.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    with override_settings(MIDDLEWARE=middleware):
        root = person("root", is_superuser=True)
        client = signed_in(root)
        try:
            for url in (PAGES, f"{PAGES}overview/", f"{PAGES}end-others/", f"{PAGES}user/1/end/"):
                page = client.get(url)
                if not url.endswith("end-others/"):
                    assert "keeps no list of them" in text(page)
                assert "There is no such session" not in text(page)
            answer = client.post(f"{PAGES}end-others/", {"confirmed": "yes"})
            assert "keeps no list of them" in text(answer)
            assert client.get(f"/admin/auth/user/{root.pk}/change/").status_code == 200
        finally:
            root.delete()


@ONE_ENGINE
def test_an_engine_of_django(site: Any, root: Any) -> None:
    """The admin works; its page of sessions says why it does not."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"):
        client = signed_in(root)
        assert "not an engine of django_sessionstores" in text(client.get(PAGES))
        assert client.get("/admin/").status_code == 200
        assert client.get(f"/admin/auth/user/{root.pk}/change/").status_code == 200


@ONE_ENGINE
def test_the_list_while_the_store_is_unreachable(site: Any, client: Client) -> None:
    """An empty list would mean that nobody is logged in."""

    def broken(name: str) -> None:
        if name == "scan":
            raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        answer = client.get(PAGES)
        assert answer.status_code == 503
        assert "no route" in text(answer)
    broken_summary = mock.Mock(side_effect=StorageUnavailable("no route"))
    with mock.patch.object(site.storage, "summarize", broken_summary):
        assert "no route" in text(client.get(f"{PAGES}overview/"))


@ONE_ENGINE
def test_the_overview_says_first_what_would_break(site: Any, client: Client) -> None:
    """As the command does, and only if something would."""
    heading, rest = '<h2 id="ss-breaks">What would break</h2>', '<h2 id="ss-store">'
    assert heading not in client.get(f"{PAGES}overview/").content.decode()

    def broken(name: str) -> None:
        if name == "lookup":
            raise StorageUnavailable("no route")

    with observed(site.storage, before=broken):
        page = client.get(f"{PAGES}overview/").content.decode()
    breaks, others = page.partition(heading)[2].split(rest)
    assert "sessionstores.E022" in breaks
    assert "Every request that uses one of these sessions fails." in breaks
    assert breaks.count("ss-finding") == 1
    assert "sessionstores.E022" not in others
    # The number is that of the problems below it.
    (number,) = re.findall(r"(\d+) problems?\.", others) or [0]
    assert int(number) == others.count("ss-wrong")


CONTROLS = "\x00\x07\x1b\x7f\x85\u2028\u202e\u2066"
"""Characters that turn around, hide or break what stands beside them."""


@ONE_ENGINE
def test_names_with_control_characters_are_shown_with_escapes(site: Any, client: Client) -> None:
    """Two users must not look alike, and none may turn around the row that it is in."""
    names = {f"a{CONTROLS[1:]}{part}" for part in ("da", "pa")}
    users = [person(name) for name in names]
    sessions = [stored(site, user, **{f"key{CONTROLS}": CONTROLS}) for user in users]
    record = site.storage.read(sessions[0].session_id)
    strange = structs.replace(record, id=session_id(draw_key()), user_agent=f"Browser{CONTROLS}")
    gone = structs.replace(record, id=session_id(draw_key()), user_id="gone\u202e")
    for each in (strange, gone):
        site.storage.create(each, now())
    pages = ["", "?q=a", f"?user={users[0].pk}", f"user/{users[0].pk}/end/", "overview/"]
    pages += [f"{each.id}/change/" for each in (record, strange, gone)]
    shown = ""
    for page in pages:
        answer = client.get(f"{PAGES}{page}")
        assert answer.status_code == 200, page
        assert not set(text(answer)) & set(CONTROLS), page
        shown += text(answer)
    for escape in (r"a\x07\x1b\x7f\x85\u2028\u202e\u2066da", r"Browser\x00\x07", r"gone\u202e"):
        assert escape in shown


@ONE_ENGINE
def test_names_that_cannot_be_read(site: Any, root: Any, client: Client) -> None:
    """The database of users is away from where the sessions are."""

    def broken(*_: Any) -> None:
        raise OperationalError("no route")

    with mock.patch.object(ModelIterable, "__iter__", broken), suppress(OperationalError):
        page = text(client.get(PAGES, {"q": "ada"}))
        assert "The database of users is unreachable" in page


# In a browser -------------------------------------------------------------------------------------


@ONE_ENGINE
def test_an_administrator_signs_somebody_out(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """The administrator goes from the user's page to the session with the keyboard alone. The other
    browser is signed out at its next click."""
    ada = person("ada")
    theirs = signed_in(ada)
    stored(site, person("bob"))

    def press(page: Page, name: str, role: Any = "link") -> None:
        page.get_by_role(role, name=name).focus()
        page.keyboard.press("Enter")

    def scene(browser: Browser) -> tuple[str, str, str]:
        adas = window(browser, served, theirs).new_page()
        adas.goto("/who/")
        before = adas.inner_text("body")
        page = window(browser, served, client).new_page()
        page.goto(f"/admin/auth/user/{ada.pk}/change/")
        press(page, "Sessions (1)")
        page.get_by_role("checkbox", name="Select session").focus()
        page.keyboard.press("Space")
        page.get_by_label("Action:").select_option("end")
        press(page, "Go", "button")
        press(page, "End these sessions", "button")
        told = page.locator(".messagelist").inner_text()
        adas.reload()
        after = adas.inner_text("body")
        adas.context.close()
        page.context.close()
        return before, told, after

    assert chromium.do(scene) == ("ada", "1 session was ended.", "")


@ONE_ENGINE
# Each pair of them: a fault of colour, of width or of a middleware needs no third to show.
@pytest.mark.parametrize(
    ("middleware", "scheme", "size"),
    [
        (OURS, "light", "wide"),
        (OURS, "dark", "phone"),
        pytest.param(DJANGOS, "light", "phone", marks=pytest.mark.slow),
        pytest.param(DJANGOS, "dark", "wide", marks=pytest.mark.slow),
    ],
    ids=["package-light-wide", "package-dark-phone", "django-light-phone", "django-dark-wide"],
)
def test_pages_can_be_used_by_everybody(
    site: Any, client: Client, chromium: Chromium, scheme: str, size: str, middleware: str
) -> None:
    """axe-core finds nothing, nothing sticks out of a phone, and the strictest policy for content
    has nothing to refuse."""
    ada = person("ada.augusta.king.countess.of.lovelace@mathematics.example.com")
    session = stored(site, ada, cart={"apples": 3, "token": 1}, long="x" * 900)
    strange = stored(site, ada, ip="2001:db8:85a3:1234:1234:8a2e:370:7334", agent="x" * 300)
    stored(site, ada, agent=SAMSUNG)
    for _ in range(3):
        stored(site)
    expired(site)
    pages = [
        *(PAGES, f"{PAGES}?q=nobody-at-all", f"{PAGES}?user={ada.pk}", f"{PAGES}?state=expired"),
        f"{PAGES}?_facets=True&o=user&began=week",
        *(f"{PAGES}overview/", detail(session), detail(strange), f"{PAGES}end-others/"),
        *(f"{PAGES}{session.session_id}/end/", f"{PAGES}user/{ada.pk}/end/"),
    ]

    def scene(browser: Browser) -> list[Any]:
        options = {"viewport": {"width": WIDTHS[size], "height": 900}, "color_scheme": scheme}
        with window(browser, served, client, **options) as context:
            return problems_of(context.new_page(), pages, WIDTHS[size])

    SessionStatistics.objects.create(hour=now() // HOUR, reason="logout", number=3)
    try:
        with (
            limits(STATISTICS=True),
            override_settings(MIDDLEWARE=[middleware, *MIDDLEWARE[1:]]),
            mock.patch.object(listing, "PER_PAGE", 5),  # So that there are links to other pages.
            serve() as served,
        ):
            assert "Ended in the last 24 hours" in text(client.get(f"{PAGES}overview/"))
            assert chromium.do(scene) == []
    finally:
        SessionStatistics.objects.all().delete()


@ONE_ENGINE
def test_the_filters_can_be_reached_by_the_keyboard(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """A link that only keyboards meet leads past the list, whose rows have two stops each."""
    stored(site)

    def scene(browser: Browser) -> tuple[bool, str]:
        options: Any = {"viewport": {"width": WIDTHS["wide"], "height": 900}}
        with window(browser, served, client, **options) as context:
            page = context.new_page()
            page.goto(PAGES)
            link = page.get_by_role("link", name="Filter", exact=True)
            before = link.evaluate("each => getComputedStyle(each.parentElement).clipPath")
            link.focus()
            shown = link.evaluate("each => getComputedStyle(each.parentElement).clipPath")
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.innerText")
            return before != "none" and shown == "none", focused

    assert chromium.do(scene) == (True, "Show counts")


@ONE_ENGINE
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_all_on_a_page_can_be_selected_at_once(
    site: Any, client: Client, served: Site, chromium: Chromium, width: int
) -> None:
    """Selecting fifty boxes one by one would be tedious."""
    for _ in range(3):
        stored(site)

    def scene(browser: Browser) -> list[Any]:
        size = {"width": width, "height": 900}
        page = window(browser, served, client, viewport=size).new_page()
        page.goto(PAGES)
        boxes, everything = page.locator("input[name=id]"), page.get_by_label("Select all")
        states = []
        for change in (
            everything.check,
            boxes.first.uncheck,
            boxes.first.check,
            everything.uncheck,
        ):
            change()
            checked = page.locator("input[name=id]:checked").count()
            states.append((checked, everything.is_checked()))
        page.context.close()
        return states

    assert chromium.do(scene) == [(3, True), (2, False), (3, True), (0, False)]


@ONE_ENGINE
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_the_page_continues(
    site: Any,
    client: Client,
    served: Site,
    chromium: Chromium,
    monkeypatch: pytest.MonkeyPatch,
    scripts: bool,
) -> None:
    """The page continues by itself until all sessions have ended, or with its button if no scripts
    run."""
    monkeypatch.setattr(end_pages, "REQUEST_SECONDS", 0)
    monkeypatch.setattr(inventory_ending, "MOST_AT_ONCE", 2)
    sessions = [stored(site) for _ in range(5)]

    def scene(browser: Browser) -> tuple[int, str]:
        context = window(browser, served, client, java_script_enabled=scripts)
        page = context.new_page()
        page.goto(f"{PAGES}end-others/")
        pressed = 0
        while pressed == 0 or (not scripts and page.url.endswith("end-others/")):
            page.get_by_role("button", name="End all but mine").click()
            pressed += 1
            if pressed == 1:
                assert "2 sessions were ended." in page.locator(".messagelist").inner_text()
        page.wait_for_url(f"**{PAGES}")
        said = page.locator(".messagelist").inner_text()
        context.close()
        return pressed, said

    pressed, said = chromium.do(scene)
    assert (pressed == 1) is scripts
    assert "1 session was ended." in said
    assert not any(is_alive(site, each) for each in sessions)
    assert LogEntry.objects.count() == 3


@ONE_ENGINE
def test_right_to_left(
    site: Any, client: Client, served: Site, chromium: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists, charts and clocks begin at the right."""
    session = stored(site)

    def scene(browser: Browser) -> list[Any]:
        page = window(browser, served, client, viewport={"width": 390, "height": 900}).new_page()
        found = []
        for url in (PAGES, f"{PAGES}overview/", detail(session)):
            page.goto(url)
            found.append(page.evaluate("document.documentElement.dir"))
            box = page.locator(".ss").bounding_box()
            assert box is not None
            first = page.locator(".ss-tabs li, .ss-facts dt").first.bounding_box()
            assert first is not None
            found.append(abs(box["x"] + box["width"] - first["x"] - first["width"]) < 2)
            found.append(page.evaluate("document.documentElement.scrollWidth") <= 390)
        page.context.close()
        return found

    with override_settings(LANGUAGE_CODE="ar", USE_I18N=True):
        assert chromium.do(scene) == ["rtl", True, True] * 3


@ONE_ENGINE
def test_names_from_right_to_left_keep_their_places(
    site: Any, client: Client, served: Site, chromium: Chromium
) -> None:
    """The user stands before the device, although both are written from right to left."""
    session = stored(site, person("אבג"), agent="דהו")

    def scene(browser: Browser) -> list[float]:
        page = window(browser, served, client).new_page()
        page.goto(f"{PAGES}{session.session_id}/end/")
        boxes = [page.get_by_text(name, exact=True).bounding_box() for name in ("אבג", "דהו")]
        page.context.close()
        return [box["x"] for box in boxes if box is not None]

    user, device = chromium.do(scene)
    assert user < device

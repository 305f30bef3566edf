"""A session that grows in its cookie, from nothing to 20 kB and back, as real clients keep it.

Every size is kept whole or refused with the error that says why, before anything is sent: the next
request of the same visitor tells which.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import rotate_token
from django.test import override_settings
from django.urls import path

from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import PayloadTooLarge
from django_sessionstores.operations.checks.cookies import PROXY_SAFE_BYTES
from django_sessionstores.payloads import cookie_chunks
from django_sessionstores.payloads.cookie_chunks import capacity, join, split
from django_sessionstores.testing import at
from tests import ROOT
from tests.browser import Chromium, Client, Curl, IncognitoWindow, Reply, Requests, Site, serve
from tests.services import Nginx

pytestmark = [pytest.mark.engines("cookie:unregistered", "cookie:sqlite"), pytest.mark.slow]

COOKIE = "sessionid"
OURS = "django_sessionstores.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
FOUR_PARTS = 16_384
CURL_SENDS = 8_000
"""Bytes of cookies, rounded down: curl leaves out those that exceed this, without a word."""
NGINX_PAGE = 4096
"""The memory page that nginx takes for the header of a response, where pages have this size."""


# The site ---------------------------------------------------------------------------------------


def noise(size: int) -> bytes:
    """Bytes that cannot be compressed, always the same ones for a size."""
    return random.Random(size).randbytes(size)


def put(request: HttpRequest, size: int) -> HttpResponse:
    """Replaces what the session holds; answers with all that a login adds to a header."""
    request.session["data"] = noise(size)
    rotate_token(request)
    response = HttpResponse(
        "kept",
        headers={
            "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; script-src "
            "'self' 'nonce-0123456789abcdef0123456789abcdef'; frame-ancestors 'none'",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
        },
    )
    response.set_cookie("messages", "m" * 200, httponly=True, samesite="Lax")
    return response


def held(request: HttpRequest) -> HttpResponse:
    """Return how many bytes the session holds, if they are those that were put."""
    data = request.session.get("data")
    if data is None:
        return HttpResponse("nothing")
    return HttpResponse(str(len(data)) if data == noise(len(data)) else "something else")


urlpatterns = [path("put/<int:size>/", put), path("held/", held)]


@contextmanager
def site_with(middleware: str, most: int) -> Iterator[Site]:
    """Yield a site as usual, whose session cookies may have so many bytes."""
    options = django_settings.SESSIONSTORES if hasattr(django_settings, "SESSIONSTORES") else {}
    with ExitStack() as stack:
        stack.enter_context(
            override_settings(
                ROOT_URLCONF=__name__,
                SESSIONSTORES=options | {"COOKIE_MAX_PARTS": 4, "COOKIE_MAX_BYTES": most},
                MIDDLEWARE=[
                    "django.middleware.security.SecurityMiddleware",
                    middleware,
                    "django.middleware.locale.LocaleMiddleware",
                    "django.middleware.common.CommonMiddleware",
                    "django.middleware.csrf.CsrfViewMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware",
                    "django.middleware.clickjacking.XFrameOptionsMiddleware",
                ],
            )
        )
        # A token holds times: as time stands still, its length depends on the data alone.
        stack.enter_context(at(now()))
        yield stack.enter_context(serve())


# What holds for every visitor -----------------------------------------------------------------


@dataclass
class Visit:
    """A visitor of a site, who follows one session from size to size."""

    client: Client
    site: Site
    url: str
    held: str = "nothing"

    @property
    def cookies(self) -> dict[str, str]:
        """Return the cookies of the session."""
        held = self.client.cookies()
        return {name: held[name] for name in sorted(held) if name.startswith(COOKIE)}

    @property
    def key(self) -> str:
        return join(COOKIE, self.cookies)

    def put(self, size: int) -> bool:
        """Return whether the session kept so many bytes. It was refused clearly, or this fails."""
        before, errors = self.cookies, len(self.site.errors)
        reply = self.client.get(f"{self.url}/put/{size}/")
        if kept := reply == Reply(200, "kept"):
            self.held = str(size)
        else:
            assert reply.status == 500, f"{size} bytes: {reply}"
            (error,) = self.site.errors[errors:]
            assert isinstance(error, PayloadTooLarge)
            assert self.cookies == before
        self.check(f"after {size} bytes, {'kept' if kept else 'refused'}")
        return kept

    def check(self, when: str) -> None:
        """Check that the site finds what was kept last, and that no other parts are left."""
        assert self.client.get(f"{self.url}/held/") == Reply(200, self.held), when
        assert self.cookies == split(COOKIE, self.key), when


def grow_and_shrink(visit: Visit, limit: int) -> None:
    """Through every boundary, a byte of data below it, at it and above it."""
    for size in (0, 10, 100, 1000):
        assert visit.put(size)
    # Three bytes are four characters.
    added = (len(visit.key) - 1) * 3 // 4 - 1000
    boundaries = [capacity(COOKIE, parts) for parts in (1, 2, 3, 4)]
    boundaries = [*(each for each in boundaries if each < limit), limit]
    sizes = [(length - 1) * 3 // 4 - added for length in boundaries]
    for length, size in zip(boundaries, sizes, strict=True):
        assert visit.put(size - 1)
        assert visit.put(size)
        assert length - 1 <= len(visit.key) <= length  # Base64 has no text of every length.
        assert visit.put(size + 1) == (length < limit)
    assert not visit.put(20_000)
    for size in (*reversed(sizes), 0):
        assert visit.put(size)


# Clients --------------------------------------------------------------------------------------

CLIENTS = {
    "chromium": IncognitoWindow,
    "requests": lambda _: Requests(),
    "curl": lambda _: Curl(),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    chromium = request.getfixturevalue("chromium") if request.param == "chromium" else None
    make: Callable[[Any], Client] = CLIENTS[request.param]
    with make(chromium) as visitor:
        yield visitor


@pytest.fixture
def visitor(chromium: Chromium) -> Iterator[Client]:
    with IncognitoWindow(chromium) as visitor:
        yield visitor


def test_every_size_is_kept_or_refused(engine: Any, client: Client) -> None:
    """A client that silently drops a cookie loses data, and one that drops a part loses the
    session."""
    most = CURL_SENDS if isinstance(client, Curl) else FOUR_PARTS
    with site_with(OURS, most) as site:
        grow_and_shrink(Visit(client, site, site.url), min(most, capacity(COOKIE, 4)))


def test_every_size_is_kept_or_refused_in_one_cookie(engine: Any, client: Client) -> None:
    """Django's middleware sends any length, and the browser would keep the cookie from before."""
    with site_with(DJANGOS, FOUR_PARTS) as site:
        grow_and_shrink(Visit(client, site, site.url), capacity(COOKIE, 1))


@pytest.mark.parametrize("middleware", [OURS, DJANGOS], ids=["ours", "djangos"])
def test_every_size_passes_nginx_or_is_refused(
    engine: Any, client: Client, middleware: str
) -> None:
    """With the recommended size it is never nginx that refuses: its 502 comes after the save, and
    its 400 for as long as the visitor has the cookies."""
    with site_with(middleware, PROXY_SAFE_BYTES) as site, Nginx(site.port) as nginx:
        grow_and_shrink(Visit(client, site, nginx.url()), PROXY_SAFE_BYTES)


def test_stale_parts_are_deleted_through_nginx(engine: Any, client: Client) -> None:
    """The headers that delete them have to fit in, too, when a site lowers its limit."""
    with site_with(OURS, FOUR_PARTS) as site:
        visit = Visit(client, site, site.url)
        visit.put(4_000)
        assert len(visit.cookies) == 2
    # Another port is no other site: the cookies are sent there as well.
    with site_with(OURS, PROXY_SAFE_BYTES) as site, Nginx(site.port) as nginx:
        visit = Visit(client, site, nginx.url(), visit.held)
        visit.put(10)
        assert list(visit.cookies) == [COOKIE]


# The figures of the documentation ---------------------------------------------------------------


@pytest.mark.engines("cookie:unregistered")
def test_the_limit_of_a_cookie_is_chromiums(engine: Any, visitor: Client) -> None:
    """One byte more and the browser drops the cookie: the tests above would find it out."""
    with (
        site_with(OURS, FOUR_PARTS) as site,
        mock.patch.object(cookie_chunks, "LIMIT", cookie_chunks.LIMIT + 1),
        pytest.raises(AssertionError, match=r"after \d+ bytes, kept"),
    ):
        grow_and_shrink(Visit(visitor, site, site.url), capacity(COOKIE, 4))


@pytest.mark.engines("cookie:unregistered")
@pytest.mark.skipif(
    not hasattr(os, "sysconf") or os.sysconf("SC_PAGESIZE") != NGINX_PAGE,
    reason="nginx takes a memory page for the header, and here that is not 4 kB",
)
def test_a_full_cookie_does_not_pass_nginx(engine: Any) -> None:
    """The warning W015 is true: with one cookie as long as browsers take, nginx answers 502."""
    with site_with(DJANGOS, FOUR_PARTS) as site, Nginx(site.port) as nginx, Requests() as client:
        assert client.get(f"{nginx.url()}/put/2900/").status == 502


@pytest.mark.engines("cookie:unregistered")
def test_cookies_beyond_8_kb_do_not_pass_nginx(engine: Any) -> None:
    """The warning W015 is true: nginx refuses the request, before the site could mend it."""
    with site_with(OURS, FOUR_PARTS) as site, Nginx(site.port) as nginx, Requests() as client:
        assert client.get(f"{site.url}/put/6500/").status == 200
        assert client.get(f"{nginx.url()}/held/").status == 400


def test_the_guide_recommends_what_is_tested() -> None:
    """A number that is written twice is wrong once."""
    docs = ROOT / "docs"
    guide = (docs / "howto" / "cookie_size.rst").read_text(encoding="utf-8")
    assert f'"COOKIE_MAX_BYTES": {PROXY_SAFE_BYTES}' in guide

"""What the tests of pages share: the middleware of a site, and a look at pages in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.services import skip_or_fail

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.test import Client
    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.browser import Site

LONGEST_NAME = 40
"""Of a device, a user or an address: what a page may not cut."""
_CUT = """
longest => [...document.querySelectorAll("body *")]
    .filter(each => ["hidden", "clip"].includes(getComputedStyle(each).overflowX))
    .filter(each => each.getClientRects().length && each.clientWidth > 2)
    .filter(each => each.scrollWidth > each.clientWidth + 1
        || each.scrollHeight > each.clientHeight + 2)
    .map(each => each.innerText)
    .filter(text => text && text.length <= longest)
"""

MOST_STOPS = 400
"""Of a walk by the Tab key."""
_STOP = """
() => {
    const stop = document.activeElement;
    if (!stop || stop === document.body) return null;
    const text = stop.getAttribute("aria-label") || stop.innerText || stop.value || stop.name || "";
    const name = `${stop.tagName.toLowerCase()} ${text.trim().slice(0, 40)}`;
    if (!stop.closest(".ss, .ssd, main#main")) return {name, problem: ""};
    const look = () => {
        const [style, bar] = [stop, stop.querySelector("rect") || stop]
            .map(each => getComputedStyle(each));
        return [style.outlineStyle, style.outlineWidth, style.boxShadow, bar.fill].join();
    };
    const place = stop.getBoundingClientRect();
    const focused = look();
    stop.blur();
    const plain = look();
    stop.focus({preventScroll: true});
    if (focused === plain) return {name, problem: "looks the same with the focus"};
    const room = 3;
    for (let box = stop.parentElement; box && box !== document.body; box = box.parentElement) {
        if (getComputedStyle(box).overflowX === "visible") continue;
        const edge = box.getBoundingClientRect();
        if (place.left - room < edge.left || place.right + room > edge.right
            || place.top - room < edge.top || place.bottom + room > edge.bottom)
            return {name, problem: `its focus is cut by ${box.className || box.tagName}`};
    }
    return {name, problem: ""};
}
"""

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAMSUNG = (
    "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) "
    "SamsungBrowser/24.0 Chrome/117.0.0.0 Mobile Safari/537.36"
)
"""The name of this device is longer than most."""
WIDTHS = {"wide": 1280, "phone": 390}
"""Of windows, in CSS pixels."""

MIDDLEWARE = [
    "django_sessionstores.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    f"{__name__}.with_policy",
]


def with_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Return a middleware that forbids browsers all that is inline or from elsewhere."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'; object-src 'none'"
        return response

    return middleware


def window(browser: Browser, served: Site, client: Client | None, **options: Any) -> BrowserContext:
    """Return a window of its own, signed in as the client is."""
    context = browser.new_context(base_url=served.url, **options)
    if client is not None:
        context.add_cookies(
            [
                {"name": name, "value": cookie.value, "url": served.url}
                for name, cookie in client.cookies.items()
            ]
        )
    context.set_default_timeout(10_000)
    return context


def axe() -> str:
    """Return the code of axe-core."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        skip_or_fail("axe_playwright_python is not installed. Install it with: uv sync")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def stops_of(page: Page) -> list[dict[str, str]]:
    """Walk through a page that was just opened by the Tab key, and return each stop.

    A stop has its name, and the problem that it has. The walk ends at the end of the page. A page
    that holds the focus is an error.
    """
    page.evaluate("document.activeElement.blur()")
    stops: list[dict[str, str]] = []
    while True:
        page.keyboard.press("Tab")
        stop = page.evaluate(_STOP)
        if stop is None:
            return stops
        stops.append(stop)
        assert len(stops) < MOST_STOPS, f"The focus does not leave {page.url}: {stops[-3:]}"


def problems_of(page: Page, urls: Iterable[str], width: int, *failing: str) -> list[Any]:
    """Open pages in a window of this width, and return what keeps anybody from using them.

    That is each error in the console, a page that is wider than the window, a short text of which
    a part is hidden, a stop of the Tab key that cannot be seen, and what axe-core finds. Addresses
    that end with one of ``failing`` may answer with an error.
    """
    code, problems = axe(), []

    def complain(said: Any) -> None:
        expected = said.location["url"].endswith(("/favicon.ico", *failing))
        if said.type == "error" and not expected:
            problems.append(said.text)

    page.on("console", complain)
    for url in urls:
        page.goto(url)
        # First, because a walk begins where the last click was.
        problems += [
            (url, each["name"], each["problem"]) for each in stops_of(page) if each["problem"]
        ]
        for summary in page.query_selector_all("summary"):
            summary.click()
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            problems.append((url, "is as wide as", wide))
        problems += [(url, "is cut", text) for text in page.evaluate(_CUT, LONGEST_NAME)]
        page.evaluate(code)
        found = page.evaluate("axe.run()")["violations"]
        problems += [
            (url, each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found
        ]
    return problems

"""What README tells to try, in a real browser, on each kind of store."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import Chromium
from tests.pages import WIDTHS, problems_of
from tests.services import Redis
from tests.test_demo import served, sqlite

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


@pytest.fixture(params=["db", "cache+redis", "file", "cookie+db"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Of a demo that runs, whose users are in a database of its own."""
    database = sqlite(tmp_path / "demo.sqlite3")
    with ExitStack() as stack:
        value = request.param
        if value == "cache+redis":
            value = f"cache+{stack.enter_context(Redis()).url()}"
        elif value == "file":
            value = f"file+{tmp_path / 'sessions'}"
        found, _, _ = stack.enter_context(served(f"{value}+{database}"))
        yield found


def signed_in(browser: Browser, address: str) -> Page:
    """Return a window in which demo has signed in."""
    page = browser.new_context(base_url=address).new_page()
    page.set_default_timeout(15_000)
    page.goto("/?next=/devices/")
    page.fill("[name=username]", "demo")
    page.fill("[name=password]", "demo")
    page.press("[name=password]", "Enter")
    page.wait_for_url("**/devices/")
    return page


def test_staff_end_a_session_that_they_have_found(address: str, chromium: Chromium) -> None:
    """The browser whose session it was is signed out at its next click."""

    def scene(browser: Browser) -> tuple[str, str]:
        user = signed_in(browser, address)
        page = browser.new_context(base_url=address).new_page()
        page.set_default_timeout(15_000)
        page.goto("/admin/")
        page.fill("#id_username", "staff")
        page.fill("#id_password", "staff")
        page.press("#id_password", "Enter")
        page.get_by_role("link", name="Sessions").last.click()
        page.fill("[name=q]", "demo")
        page.press("[name=q]", "Enter")
        row = page.locator("tr", has_text="127.0.0.1", has=page.locator("code"))
        row.first.locator("a").last.click()
        page.get_by_role("link", name="End this session…").click()
        page.get_by_role("button", name="End this session").click()
        told = page.locator(".messagelist").inner_text()
        user.get_by_role("link", name="Sign out all other devices…").click()
        after = user.url
        for each in (user, page):
            each.context.close()
        return told, after.removeprefix(address)

    told, after = chromium.do(scene)
    assert told == "1 session was ended."
    assert after == "?next=/devices/end-others/"


@pytest.mark.parametrize(("scheme", "size"), [("light", "wide"), ("dark", "phone")])
def test_the_tour_can_be_used_by_everybody(
    tmp_path: Path, chromium: Chromium, scheme: str, size: str
) -> None:
    """axe-core finds nothing before the tour and after it, and nothing sticks out of a phone."""
    width = WIDTHS[size]

    def scene(browser: Browser) -> list[Any]:
        options: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        page = browser.new_context(base_url=found, **options).new_page()
        page.set_default_timeout(15_000)
        problems = problems_of(page, ["/tour/", "/"], width)
        page.goto("/tour/")
        for name in ("Sign in as demo", "Sign in on the phone", "Get another key"):
            page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="Sign out all other devices").click()
        page.close()
        page = page.context.new_page()
        problems += problems_of(page, ["/tour/", "/"], width)
        page.context.close()
        return problems

    with served(f"memory+{sqlite(tmp_path / 'demo.sqlite3')}") as (found, _, _):
        assert chromium.do(scene) == []


def test_a_user_signs_out_the_other_devices(address: str, chromium: Chromium) -> None:
    """All but the one at hand."""

    def scene(browser: Browser) -> tuple[str, str]:
        other, page = signed_in(browser, address), signed_in(browser, address)
        page.get_by_role("link", name="Sign out all other devices…").click()
        page.get_by_role("button", name="Sign out all others").click()
        told = page.locator(".ssd-message").inner_text()
        assert page.locator(".ssd-name").count() == 1
        other.reload()
        after = other.url
        for each in (other, page):
            each.context.close()
        return told, after.removeprefix(address)

    told, after = chromium.do(scene)
    assert told.endswith("other devices were signed out.")
    assert after == "?next=/devices/"

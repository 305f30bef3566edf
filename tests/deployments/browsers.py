"""Browsers that visit the site: each signs in, counts in its session, and looks whose it is."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, Final, Protocol

from tests.services import HOST

NONE: Final = 0
"""The status of a request that got no response: its process was killed, or it took too long."""
OK: Final = 200
_BROKEN: Final = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to one request, or what took its place."""

    page: str
    """The first part of the path."""
    began: float
    """On the monotonic clock."""
    seconds: float
    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    sent: int = 1
    """How often the request was sent: browsers repeat it if a kept connection was closed."""

    @property
    def is_good(self) -> bool:
        return self.status == OK


class Connection:
    """One connection of a browser, which is kept open between requests."""

    def __init__(self, port: int, cookies: dict[str, str], timeout: float = 30) -> None:
        self._cookies = cookies
        self._connection = http.client.HTTPConnection(HOST, port, timeout=timeout)

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str, page: str) -> Answer:
        """Return the response, whose cookies are then those of the browser."""
        began, sent = time.monotonic(), 0
        while True:
            sent += 1
            was_open = self._connection.sock is not None
            try:
                status, body = self._exchange(path)
            except _BROKEN as error:
                self.close()
                if was_open and isinstance(error, ConnectionError):
                    continue
                status, body = NONE, b""
            found = json.loads(body) if status == OK else {}
            return Answer(page, began, time.monotonic() - began, status, found, sent)

    def _exchange(self, path: str) -> tuple[int, bytes]:
        sent = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        self._connection.request("GET", path, headers={"Cookie": sent} if sent else {})
        response = self._connection.getresponse()
        body = response.read()
        for header in response.headers.get_all("Set-Cookie", []):
            self._keep(SimpleCookie(header))
        return response.status, body

    def _keep(self, cookies: SimpleCookie) -> None:
        for name, morsel in cookies.items():
            if morsel["max-age"] in {0, "0"}:
                self._cookies.pop(name, None)
            else:
                self._cookies[name] = morsel.value


def address(page: str, *parts: object) -> str:
    """Return the address of a page within the site."""
    return "/".join([page, *map(str, parts), ""])


class Findings(Protocol):
    """Where browsers tell what they have met; see `tests.deployments.load.Load`."""

    def ask(self, connection: Connection, path: str, page: str) -> Answer:
        """Return the response to a request, and remember it."""

    def found(self, what: str, number: int, details: object) -> None:
        """Remember something that must not happen."""

    def may_go_on(self) -> bool:
        """Return whether there is time for another request; waits while the load is paused."""


MIX_UP: Final = "mix-ups"
LOST: Final = "lost increments"
INVENTED: Final = "invented increments"
SIGNED_OUT: Final = "sign-outs nobody asked for"
UNDONE: Final = "logouts undone"
WRONGS: Final = (MIX_UP, LOST, INVENTED, SIGNED_OUT, UNDONE)


@dataclass(frozen=True)
class Habits:
    """How browsers behave."""

    tabs: int = 2
    """How many requests of one browser run at a time. Each tab counts in a counter of its own."""
    think: float = 0.05
    """Seconds between a response and the next request, on average."""
    reads: float = 0.5
    """The share of requests that only read."""
    pages: int = 60
    """How many pages a tab asks for until the user signs out, on average."""
    leaves: float = 0.1
    """The share of users who leave without signing out."""


class Browser:
    """A browser with a cookie jar and several tabs. Its users sign in one after another."""

    def __init__(
        self,
        port: int,
        path: Callable[[str], str],
        findings: Findings,
        habits: Habits,
        next_user: Callable[[], int],
    ) -> None:
        self.port = port
        self.findings = findings
        self.habits = habits
        self._path = path
        self._next_user = next_user

    def ask(self, connection: Connection, page: str, *parts: object) -> Answer:
        return self.findings.ask(connection, self._path(address(page, *parts)), page)

    def browse(self) -> None:
        """Use the site as one user after another."""
        while self.findings.may_go_on():
            self._visit(self._next_user())

    def _visit(self, user: int) -> None:
        cookies: dict[str, str] = {}
        connection = Connection(self.port, cookies)
        try:
            if not self.ask(connection, "login", user).is_good:
                time.sleep(self.habits.think)
                return
            visit = Visit(self, user, cookies)
            with ThreadPoolExecutor(self.habits.tabs) as pool:
                is_signed_in = all(pool.map(visit.use_tab, range(self.habits.tabs)))
            if is_signed_in and random.random() >= self.habits.leaves:
                self._sign_out(connection, user, cookies)
        finally:
            connection.close()

    def _sign_out(self, connection: Connection, user: int, cookies: dict[str, str]) -> None:
        before = dict(cookies)
        if not self.ask(connection, "logout").is_good:
            return
        cookies.update(before)
        answer = self.ask(connection, "read")
        if answer.is_good and (answer.body["user"], answer.body["owner"]) != (None, None):
            self.findings.found(UNDONE, 1, (user, answer.body))


class Visit:
    """What one user does in the tabs of a browser, from login to logout."""

    def __init__(self, browser: Browser, user: int, cookies: dict[str, str]) -> None:
        self._browser = browser
        self._findings = browser.findings
        self._habits = browser.habits
        self._user = user
        self._cookies = cookies

    def use_tab(self, tab: int) -> bool:
        """Read and count for a while; return whether the user is still signed in."""
        connection = Connection(self._browser.port, self._cookies)
        count = Count(f"counter{tab}")
        try:
            # An outage uses up none of them: who left during one would not see what was lost.
            pages = random.randint(1, 2 * self._habits.pages)
            while pages and self._may_go_on():
                if random.random() < self._habits.reads:
                    answer = self._browser.ask(connection, "read")
                else:
                    answer = self._browser.ask(connection, "increment", count.name)
                    count.sent += answer.sent
                    count.acknowledged += answer.is_good
                pages -= answer.is_good
                if answer.is_good and not self._is_right(answer, count):
                    return False
            # What was acknowledged last has to be there as well.
            answer = self._browser.ask(connection, "read")
            while not answer.is_good and self._may_go_on():
                answer = self._browser.ask(connection, "read")
            return not answer.is_good or self._is_right(answer, count)
        finally:
            connection.close()

    def _may_go_on(self) -> bool:
        time.sleep(random.uniform(0, 2 * self._habits.think))
        return self._findings.may_go_on()

    def _is_right(self, answer: Answer, count: Count) -> bool:
        """Note what is wrong with a page, and return whether it is the user's."""
        whose = answer.body["user"], answer.body["owner"]
        if whose != (self._user, self._user):
            what = SIGNED_OUT if whose == (None, None) else MIX_UP
            self._findings.found(what, 1, (self._user, answer))
            return False
        value = answer.body["counters"].get(count.name, 0)
        if value < count.acknowledged:
            self._findings.found(LOST, count.acknowledged - value, (self._user, count, answer))
        if value > count.sent:
            self._findings.found(INVENTED, value - count.sent, (self._user, count, answer))
        # What a read has seen may be of a write that was answered as failed, and be undone.
        if value < count.acknowledged or answer.page == "increment":
            count.acknowledged = value
        return True


@dataclass
class Count:
    """What a tab knows of its counter: it is between what was acknowledged and what was sent."""

    name: str
    acknowledged: int = 0
    sent: int = 0

"""Visitors on a site for some time, and what they have met."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, Protocol, Self

from tests.deployments.browsers import OK, WRONGS, Answer, Browser, Connection, Habits
from tests.services import wait_until

_users = itertools.count(1)


class Visited(Protocol):
    """What visitors need to know of a site."""

    port: Any

    def path(self, page: str) -> str:
        """Return the path of a page."""

    def log(self) -> str:
        """Return what it has logged."""


_KEPT_EXAMPLES: Final = 5
_PATIENCE: Final = 60
"""Seconds in which a busy machine answers some requests."""


class Load:
    """Browsers, and visitors of pages that do not need a session, as a context manager.

    ``answers`` are in the order in which the requests were answered.
    """

    def __init__(
        self,
        site: Visited,
        browsers: int = 4,
        plain_visitors: int = 1,
        habits: Habits | None = None,
        plain_think: float = 0.05,
    ) -> None:
        self._site = site
        self._habits = habits or Habits()
        self._plain_think = plain_think
        self._is_over = threading.Event()
        self._runs = threading.Event()
        self._runs.set()
        self.answers: list[Answer] = []
        self.wrongs: Counter[str] = Counter()
        self.examples: list[Any] = []
        self._targets = [self._browser().browse for _ in range(browsers)]
        self._targets += [self._visit_plain_pages] * plain_visitors
        self._visitors = ThreadPoolExecutor(len(self._targets))
        self._visits: list[Future[None]] = []
        self._in_flight = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._visits = [self._visitors.submit(target) for target in self._targets]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let all visitors finish. Raises the exception that has stopped one of them before."""
        self._is_over.set()
        self._runs.set()
        self._visitors.shutdown()
        for visit in self._visits:
            visit.result()

    def _browser(self) -> Browser:
        port, path = self._site.port, self._site.path
        return Browser(port, path, self, self._habits, lambda: next(_users))

    def _visit_plain_pages(self) -> None:
        connection = Connection(self._site.port, {})
        path = self._site.path("plain/")
        while self.may_go_on():
            self.ask(connection, path, "plain")
            time.sleep(self._plain_think)
        connection.close()

    # What browsers tell --------------------------------------------------------------------

    def ask(self, connection: Connection, path: str, page: str) -> Answer:
        with self._lock:
            self._in_flight += 1
        try:
            answer = connection.get(path, page)
        finally:
            with self._lock:
                self._in_flight -= 1
        self.answers.append(answer)
        return answer

    def found(self, what: str, number: int, details: object) -> None:
        self.wrongs[what] += number
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append((what, number, details))

    def may_go_on(self) -> bool:
        self._runs.wait()
        return not self._is_over.is_set()

    # What a test does ------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send no requests meanwhile. Those that were sent are answered before."""
        self._runs.clear()
        time.sleep(0.1)  # Who was allowed to go on has then sent the request.
        wait_until(lambda: self._in_flight == 0, "what was sent is answered")
        yield
        self._runs.set()

    def wait_for(self, number: int, page: str = "", seconds: float = _PATIENCE) -> None:
        """Wait for so many further good answers, of one page if it is named."""
        began, deadline = len(self.answers), time.monotonic() + seconds
        while sum(self._is_good(each, page) for each in self.answers[began:]) < number:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{number} good answers of {page or 'any page'}: {self}")
            time.sleep(0.05)

    def wait_for_sessions(self, number: int = 20, seconds: float = _PATIENCE) -> None:
        """Wait for so many further pages that have needed the session."""
        self.wait_for(number, "increment", seconds)

    @staticmethod
    def _is_good(answer: Answer, page: str) -> bool:
        return answer.is_good and page in {"", answer.page}

    def statuses(
        self, since: float = 0, until: float = float("inf"), *, plain: bool = False
    ) -> Counter[int]:
        """Return the statuses of the requests that began in a period, by their numbers.

        They are of pages that need the session, or of those that do not.
        """
        return Counter(
            answer.status
            for answer in self.answers
            if since <= answer.began < until and (answer.page == "plain") is plain
        )

    def errors(self, since: float = 0, until: float = float("inf")) -> dict[int, int]:
        """Return what is not OK among the statuses of pages that need the session."""
        return {
            status: number for status, number in self.statuses(since, until).items() if status != OK
        }

    def plain_rate(self, since: float, until: float) -> float:
        """Return how many pages without a session were answered in a second of a period."""
        return self.statuses(since, until, plain=True)[OK] / (until - since)

    def good(self, page: str) -> int:
        """Return how many requests for a page were answered well."""
        return sum(self._is_good(answer, page) for answer in self.answers)

    def last_error(self, since: float) -> float:
        """Return the seconds until the last error of a page that needs the session; 0 if none."""
        ends = [
            answer.began + answer.seconds
            for answer in self.answers
            if answer.page != "plain" and not answer.is_good
        ]
        return max(0, max(ends, default=since) - since)

    def first_good(self, since: float) -> float | None:
        """Return the seconds until the first good answer of a page that needs the session."""
        ends = [
            answer.began + answer.seconds
            for answer in self.answers
            if answer.page != "plain" and answer.is_good and answer.began + answer.seconds >= since
        ]
        return min(ends, default=since) - since if ends else None

    def longest_pause(self, since: float, page: str = "increment") -> float:
        """Return the longest time without a good answer of a page, in seconds."""
        ends = [
            answer.began + answer.seconds for answer in self.answers if self._is_good(answer, page)
        ]
        moments = [since, *sorted(each for each in ends if each > since)]
        return max(later - earlier for earlier, later in pairwise(moments))

    def assert_all_is_well(self, *, but: Collection[str] = ()) -> None:
        """Assert that nobody saw another's session, or lost a write or a login."""
        wrongs = {what: number for what, number in self.wrongs.items() if what not in but}
        assert wrongs == {}, str(self)

    def __str__(self) -> str:
        lines = [f"{sum(self.statuses().values())} pages with a session"]
        lines += [f"{what}: {self.wrongs[what]}" for what in WRONGS if self.wrongs[what]]
        lines += [
            f"{number} times {status or 'no response'}" for status, number in self.errors().items()
        ]
        lines += [str(example) for example in self.examples]
        lines += ["Logged last:", *self._site.log().splitlines()[-_KEPT_EXAMPLES:]]
        return "\n".join(lines)

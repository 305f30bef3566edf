"""Django's site on a port, and what asks it: Chromium, requests and curl, each with its cookies."""

from __future__ import annotations

import http.cookiejar
import shutil
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, TypeVar

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.signals import got_request_exception

from tests.services import HOST, executable, run, skip_or_fail, temporary_folder

if TYPE_CHECKING:
    import requests
    from playwright.sync_api import Browser

ANSWER_SECONDS = 30
T = TypeVar("T")


# The site ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """The Django project of this process, as its settings are when it is asked."""

    port: int
    errors: list[BaseException] = field(default_factory=list)
    """What was answered with 500."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - Django's name
        pass


@contextmanager
def serve() -> Iterator[Site]:
    """Answer real requests meanwhile, for static files too, from threads of this process."""
    server = ThreadedWSGIServer((HOST, 0), SilentHandler, connections_override={})
    server.set_app(StaticFilesHandler(WSGIHandler()))
    site = Site(server.server_port)

    def note(**kwargs: Any) -> None:
        site.errors.append(sys.exc_info()[1])  # type: ignore[arg-type]

    got_request_exception.connect(note)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        got_request_exception.disconnect(note)


# Who asks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    status: int
    text: str


class Client(ABC):
    """One visitor, who has no cookies at first."""

    @abstractmethod
    def get(self, url: str) -> Reply: ...

    @abstractmethod
    def cookies(self) -> dict[str, str]:
        """Return what the visitor holds, by name."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Requests(Client):
    """The library ``requests``."""

    def __init__(self) -> None:
        if find_spec("requests") is None:
            skip_or_fail("requests is not installed. Install it with: uv sync")
        import requests

        self._session: requests.Session = requests.Session()
        self._session.trust_env = False  # No proxy of the environment.

    def get(self, url: str) -> Reply:
        response = self._session.get(url, timeout=ANSWER_SECONDS)
        return Reply(response.status_code, response.text)

    def cookies(self) -> dict[str, str]:
        return self._session.cookies.get_dict()

    def close(self) -> None:
        self._session.close()


class Curl(Client):
    """The program ``curl``, started anew for each request, with its cookies in a file."""

    def __init__(self) -> None:
        program = executable("curl")
        if program is None:
            skip_or_fail("curl is not installed. Install it with: apt-get install curl")
        self._folder = temporary_folder()
        self._jar = str(self._folder / "cookies")
        self._command = (
            *(program, "--silent", "--show-error", "--noproxy", "*"),
            *("--max-time", str(ANSWER_SECONDS), "--write-out", "\n%{http_code}"),
            *("--cookie", self._jar, "--cookie-jar", self._jar),
        )

    def get(self, url: str) -> Reply:
        text, _, status = run(*self._command, url).rpartition("\n")
        return Reply(int(status), text)

    def cookies(self) -> dict[str, str]:
        jar = http.cookiejar.MozillaCookieJar(self._jar)
        with suppress(FileNotFoundError):  # Nothing was asked yet.
            jar.load(ignore_discard=True)
        return {cookie.name: cookie.value or "" for cookie in jar}

    def close(self) -> None:
        shutil.rmtree(self._folder)


class Chromium:
    """The system's Chromium without a window. Start one for a run: it takes seconds.

    It lives in a thread of its own. Playwright's blocking interface runs an event loop, and in the
    thread of the tests Django would refuse every query, and asyncio every loop of a test.
    """

    def __init__(self) -> None:
        program = executable("chromium", "chromium-browser", "google-chrome")
        if program is None:
            skip_or_fail("chromium is not installed. Install it with: apt-get install chromium")
        if find_spec("playwright") is None:
            skip_or_fail("playwright is not installed. Install it with: uv sync")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chromium")
        try:
            self._thread.submit(self._start, program).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def _start(self, program: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        try:
            # No sandbox, because that does not work for root.
            self._browser = self._playwright.chromium.launch(
                executable_path=program, chromium_sandbox=False
            )
        except BaseException:
            self._playwright.stop()
            raise

    def do(self, what: Callable[[Browser], T]) -> T:
        """Return what a function of Playwright's browser returns, called in its thread."""
        return self._thread.submit(what, self._browser).result()

    def close(self) -> None:
        def end(browser: Browser) -> None:
            browser.close()
            self._playwright.stop()

        self.do(end)
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class IncognitoWindow(Client):
    """A visitor in a window of its own, which shares no cookies with others."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._page = chromium.do(lambda browser: browser.new_context().new_page())

    def get(self, url: str) -> Reply:
        def visit(browser: Browser) -> Reply:
            response = self._page.goto(url, timeout=ANSWER_SECONDS * 1000)
            assert response is not None, f"{url} is the page that is shown already"
            return Reply(response.status, response.text())

        return self._chromium.do(visit)

    def cookies(self) -> dict[str, str]:
        held = self._chromium.do(lambda browser: self._page.context.cookies())
        return {cookie["name"]: cookie["value"] for cookie in held}

    def close(self) -> None:
        self._chromium.do(lambda browser: self._page.context.close())

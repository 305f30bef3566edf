"""Visitors notice what must not happen. Otherwise the tests of deployments would prove nothing."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.deployments.browsers import INVENTED, LOST, MIX_UP, SIGNED_OUT, UNDONE, Habits
from tests.deployments.load import Load

Session = dict[str, Any]
NOBODY: Session = {"user": None, "owner": None, "counters": {}}


class BadSite(ThreadingHTTPServer):
    """Pages as those of the deployed site, with sessions in memory. Subclasses do it wrongly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_port
        self.sessions: dict[str, Session] = {}
        self.lock = threading.Lock()

    def path(self, page: str) -> str:
        return f"/{page}"

    def log(self) -> str:
        return ""

    def log_in(self, number: int) -> str:
        key = secrets.token_hex()
        self.sessions[key] = {"user": number, "owner": number, "counters": {}}
        return key

    def log_out(self, key: str) -> None:
        self.sessions.pop(key, None)

    def read(self, key: str) -> Session:
        return self.sessions.get(key, NOBODY)

    def increment(self, key: str, counter: str) -> None:
        counters = self.sessions[key]["counters"]
        counters[counter] = counters.get(counter, 0) + 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Otherwise a response is two packets, of which the second waits.
    server: BadSite

    def do_GET(self) -> None:
        _, page, *parts = self.path.split("/")
        key = self.headers.get("Cookie", "").partition("=")[2]
        cookie, body = "", NOBODY
        with self.server.lock:
            if page == "login":
                cookie = f"key={self.server.log_in(int(parts[0]))}; Path=/"
            elif page == "logout":
                self.server.log_out(key)
                cookie = "key=; Max-Age=0; Path=/"
            elif page == "increment":
                self.server.increment(key, parts[0])
            if page in {"read", "increment"}:
                body = self.server.read(key)
            said = json.dumps(body).encode()
        self.send_response(200)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of its base
        pass


class Loses(BadSite):
    def increment(self, key: str, counter: str) -> None:
        if self.sessions[key]["counters"].get(counter) != 3:
            super().increment(key, counter)


class Doubles(BadSite):
    def increment(self, key: str, counter: str) -> None:
        super().increment(key, counter)
        super().increment(key, counter)


class MixesUp(BadSite):
    def read(self, key: str) -> Session:
        return {**super().read(key), "owner": 0}


class SignsOut(BadSite):
    def read(self, key: str) -> Session:
        return NOBODY


class KeepsAfterLogout(BadSite):
    def log_out(self, key: str) -> None:
        pass


@contextmanager
def visited(site: BadSite) -> Iterator[Load]:
    """Yield the load on a site, whose visitors have used some sessions."""
    with site:
        thread = threading.Thread(target=site.serve_forever, args=[0.01])
        thread.start()
        try:
            with Load(site, 2, habits=Habits(think=0.001, pages=8, leaves=0)) as load:
                load.wait_for_sessions(60)
                yield load
        finally:
            site.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Loses, LOST),
        (Doubles, INVENTED),
        (MixesUp, MIX_UP),
        (SignsOut, SIGNED_OUT),
        (KeepsAfterLogout, UNDONE),
    ],
)
def test_what_is_wrong_is_found(make: Callable[[], BadSite], what: str) -> None:
    with visited(make()) as load:
        load.stop()
        assert load.wrongs.keys() == {what}
        with pytest.raises(AssertionError, match=what):
            load.assert_all_is_well()


def test_nothing_is_found_if_all_is_well() -> None:
    with visited(BadSite()) as load:
        load.stop()
        load.assert_all_is_well()
        assert load.errors() == {}
        assert load.good("plain") > 0


def test_no_request_is_sent_while_the_load_is_paused() -> None:
    """What is done to connections then is done to idle ones."""
    with visited(BadSite()) as load:
        with load.paused():
            number = len(load.answers)
            threading.Event().wait(0.1)
            assert len(load.answers) == number
        load.wait_for_sessions()

"""The site of ``project`` under a server such as sites have, as processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import BYTECODE, ROOT
from tests.deployments.browsers import Connection
from tests.services import ANSWER_SECONDS, HOST, START_SECONDS, Server, children, wait_until

PROJECT: Final = Path(__file__).with_name("project")
_LOGGED: Final = re.compile(r"\[(\d+)\] [A-Z]+ \S+ ")
"""How the site's logging begins a line. Other lines belong to the one before, or to the server."""
_SERVERS_OWN: Final = re.compile(r"\[\d{4}-\d\d-\d\d |INFO:|WARNING:|ERROR:")


@dataclass(frozen=True)
class Kind:
    """A server that sites run on, and how."""

    name: str
    arguments: tuple[str, ...]
    processes: int = 2
    is_async: bool = False

    @property
    def is_cooperative(self) -> bool:
        """Whether many requests share one thread, so that connections are not theirs to keep."""
        return self.is_async or "gevent" in self.arguments


_GUNICORN: Final = (
    *("gunicorn", "deployed_site:wsgi", "--no-control-socket", "--log-level=warning"),
    "--graceful-timeout=5",
)
_UVICORN: Final = (
    *("uvicorn", "deployed_site:asgi", "--no-access-log", "--log-level=warning"),
    *("--lifespan=off", "--timeout-graceful-shutdown=5"),
    # A reload is given up if a new process takes longer to start.
    "--timeout-worker-healthcheck=60",
)
KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("sync", (*_GUNICORN, "--worker-class=sync"), processes=4),
        Kind("gthread", (*_GUNICORN, "--worker-class=gthread", "--threads=4")),
        Kind("gthread-preload", (*_GUNICORN, "--worker-class=gthread", "--threads=4", "--preload")),
        Kind("gevent", (*_GUNICORN, "--worker-class=gevent")),
        Kind("uvicorn", _UVICORN, is_async=True),
    )
}


@dataclass(frozen=True)
class Usage:
    """What a process takes at one moment."""

    memory_kb: int
    descriptors: int
    connections: int
    """To the stores."""


class Site(Server):
    """The site with these settings, on a port of its own."""

    name = "site"
    executables = (sys.executable,)
    debian_package = "python3"
    accounts = ()

    def __init__(
        self, kind: Kind, settings: Mapping[str, Any], *, package: Path | None = None
    ) -> None:
        """``package`` is another checkout, whose package the site uses in place of this one's."""
        super().__init__()
        self.kind = kind
        self.settings = settings
        self.package = package or ROOT

    def command(self) -> Sequence[str]:
        module, *arguments = self.kind.arguments
        place = {
            "gunicorn": ["--bind", self.url()],
            "uvicorn": ["--host", HOST, "--port", str(self.port)],
        }[module]
        workers = ["--workers", str(self.kind.processes)]
        return [sys.executable, "-m", module, *arguments, *place, *workers]

    def environment(self) -> dict[str, str]:
        variables = {**os.environ, "DEPLOYED_SITE": json.dumps(self.settings)}
        variables["PYTHONPATH"] = os.pathsep.join([str(PROJECT), str(self.package)])
        variables["PYTHONPYCACHEPREFIX"] = BYTECODE
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        return variables

    def answers(self) -> bool:
        return self._ask() is not None

    def _ask(self) -> int | None:
        """Return the process that answers a request now, if one does."""
        connection = Connection(self.port, {}, ANSWER_SECONDS)
        try:
            return connection.get("/plain/", "plain").body.get("process")
        finally:
            connection.close()

    def processes(self) -> list[int]:
        return [self.pid, *children(self.pid)]

    def path(self, page: str) -> str:
        """Return the path of a page, whose views are of the server's kind."""
        return f"/async/{page}" if self.kind.is_async else f"/{page}"

    def manage(self, *command: str, seconds: float = 60) -> str:
        """Return what a command of Django prints in this project."""
        done = subprocess.run(
            [sys.executable, "-c", "import deployed_site; deployed_site.manage()", *command],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def workers(self) -> list[int]:
        """Return the processes that answer requests."""
        return [pid for pid in children(self.pid) if b"resource_tracker" not in _command_of(pid)]

    def kill_worker(self) -> None:
        """End one process at once, as the system does if there is no memory left."""
        before = self.workers()
        os.kill(before[-1], signal.SIGKILL)
        self._wait_for_others_than({before[-1]})

    def reload(self) -> None:
        """Have new processes take the place of all, as after a change of code."""
        before = set(self.workers())
        os.kill(self.pid, signal.SIGHUP)
        self._wait_for_others_than(before)

    def _wait_for_others_than(self, old: set[int]) -> None:
        """Wait until there are as many processes as before, and each has answered a request."""
        answered = set()

        def have_all_answered() -> bool:
            if not self.is_running:
                raise RuntimeError(f"The site has ended:\n{self.log()[-5000:]}")
            answered.add(self._ask())
            present = set(self.workers())
            return not present & old and len(present & answered) == self.kind.processes

        # uvicorn starts one after the other.
        wait_until(have_all_answered, "new processes answer", 2 * START_SECONDS)

    def lines_logged(self, since: int = 0) -> Counter[int]:
        """Return the lines that each process has logged, those of tracebacks included.

        ``since`` is the length of the log at the moment from which on they count.
        """
        lines: Counter[int] = Counter()
        process = 0
        for line in self.log()[since:].splitlines():
            if begun := _LOGGED.match(line):
                process = int(begun[1])
            elif _SERVERS_OWN.match(line):
                process = 0
            if process:
                lines[process] += 1
        return lines

    def usage(self, ports: Collection[int]) -> dict[int, Usage]:
        """Return what each process takes; connections are those to one of the ports."""
        return {pid: _usage(pid, ports) for pid in self.workers()}


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"resource_tracker"  # It has ended meanwhile, and answers no requests either.


def _usage(pid: int, ports: Collection[int]) -> Usage:
    status = Path(f"/proc/{pid}/status").read_text()
    folder = Path(f"/proc/{pid}/fd")
    targets = []
    for descriptor in folder.iterdir():
        try:
            targets.append(str(descriptor.readlink()))
        except OSError:  # Closed since it was listed.
            continue
    sockets = {f"socket:[{inode}]" for inode in _connected_to(ports)}
    return Usage(
        memory_kb=int(status.partition("VmRSS:")[2].split()[0]),
        descriptors=len(targets),
        connections=len(sockets.intersection(targets)),
    )


def _connected_to(ports: Collection[int]) -> set[str]:
    """Return the inodes of the sockets that are connected to one of the ports."""
    established = "01"
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == established and int(fields[2].partition(":")[2], 16) in ports:
            inodes.add(fields[9])
    return inodes

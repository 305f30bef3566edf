"""The real servers that the tests talk to: on loopback, each with a temporary folder of its own.

`shared_service` returns the one instance of a test run, and starts it at the first call. A test
that pauses, kills or restarts a server makes its own: ``with Redis() as redis: ...``.

If a subprocess of a test calls `shared_service`, it gets the instance of its parent, because the
ports are in the environment.
"""

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn, Self, TypeVar

HOST = "127.0.0.1"
_TEMPLATES = "SESSIONSTORES_TEST_TEMPLATES"
START_SECONDS = 60
STOP_SECONDS = 20
ANSWER_SECONDS = 2.0
# Below the ports that systems hand out for outgoing connections (32768 on Linux): while a test
# holds a server down, nobody else is given its port, and no client connects to itself. A Redis
# cluster node takes the port 10,000 above its own as well.
PORTS = range(12_000, 22_000)
CLUSTER_BUS_OFFSET = 10_000
# Python has no name for these on Windows, where none of the servers run.
SIGSTOP = getattr(signal, "SIGSTOP", None)
SIGCONT = getattr(signal, "SIGCONT", None)
SIGKILL = getattr(signal, "SIGKILL", None)


def everything_must_run() -> bool:
    return bool(os.environ.get("CI")) or os.environ.get("SESSIONSTORES_REQUIRE_SERVERS") == "1"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip what cannot run here, or fail it where everything must run."""
    # Here, because many subprocesses of tests import this module, and none of them skips.
    import pytest

    if everything_must_run():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def executable(*names: str) -> str | None:
    """Return the first of the programs that is installed, also where Debian keeps it off the
    PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)
    path = os.pathsep.join([*os.get_exec_path(), *map(str, newest_first), "/usr/sbin"])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def run(*command: str, **options: Any) -> str:
    """Return the output of a command that must succeed; its output is in the error where it does
    not."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def accepts(port: int) -> bool:
    """Return whether a process accepts connections on a port of this machine."""
    try:
        socket.create_connection((HOST, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_until(question: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Ask until the answer is yes; ``RuntimeError`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Not within {seconds} s: {what}")
        time.sleep(0.02)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do, or a port whose last connections linger could not be had again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    # A generator of its own: plug-ins that seed the global one would make every run, parallel
    # ones included, go for the same ports.
    for port in random.SystemRandom().sample(PORTS, 200):
        if is_free(port) and is_free(port + CLUSTER_BUS_OFFSET):
            return port
    raise RuntimeError(f"No free port found in {PORTS}")


def refusing_port() -> int:
    """Return a port that refuses connections until this process ends.

    A port that is only free may be given to a server of another test meanwhile.
    """
    kept = socket.socket()
    kept.bind((HOST, free_port()))  # Without `SO_REUSEADDR`, so that no server gets it.
    _refusing.append(kept)
    port: int = kept.getsockname()[1]
    return port


def answer(port: int, question: bytes, size: int = 512) -> bytes:
    """Return the first bytes that a server says to a question; empty where it says nothing."""
    try:
        with socket.create_connection((HOST, port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(question)
            return connection.recv(size)
    except OSError:
        return b""


def temporary_folder() -> Path:
    """Return a new folder, which is removed when this process ends.

    It is in memory if there is room. Its path is short, for the 104 characters of a Unix socket.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK)
    roomy = roomy and shutil.disk_usage(memory).free > 2 * 1024**3
    parent = memory if roomy else Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="dss-", dir=parent if parent.is_dir() else None))
    _folders.append(folder)
    return folder


def templates() -> Path:
    """Return the folder with the data of new servers. The process that asks first removes it."""
    if _TEMPLATES not in os.environ:
        os.environ[_TEMPLATES] = str(temporary_folder())
    return Path(os.environ[_TEMPLATES])


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is here with the same folder, such as a worker of this run."""
    try:
        import fcntl
    except ImportError:  # On Windows, each of them does the same.
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Service(ABC):
    """One server or several that work together."""

    name: ClassVar[str]
    ports: list[int]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def addresses(self) -> list[str]:
        return [f"{HOST}:{port}" for port in self.ports]

    @abstractmethod
    def start(self) -> Self:
        """Returns when the service answers. Skips the test where it is not installed."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order, paused or not, and remove its data. A second call does nothing."""

    @abstractmethod
    def pause(self) -> None:
        """From here on it accepts connections but answers nothing (SIGSTOP)."""

    @abstractmethod
    def resume(self) -> None:
        """Resume the server after `pause`. It then answers what it was asked in between."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL: connections break at once, new ones are refused. Data and ports are kept."""

    @abstractmethod
    def restart(self) -> None:
        """Back on the same ports with what it keeps on disk, after `kill` or in its stead.

        Redis as started here and memcached keep nothing on disk.
        """

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Server(Service):
    """One server process."""

    executables: ClassVar[tuple[str, ...]]
    debian_package: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]] = ("nobody",)
    """Who to become when started by root."""
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self) -> None:
        self.ports = []
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []
        self._folder: Path | None = None
        self._program: str = self.executables[0]

    @property
    def install_hint(self) -> str:
        return f"apt-get install {self.debian_package}"

    @property
    def folder(self) -> Path:
        assert self._folder is not None, f"{self.name} is not started"
        return self._folder

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command that runs the server in the foreground, on `port` and in `folder`."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether a server of this kind answers."""

    def prepare(self) -> None:
        """Make the data folder, once, before the first start."""

    def make_data(self, make: Callable[[], object]) -> None:
        """Make the folder ``data`` by a function, the first time; then copy what it has made.

        The workers of a run share it, and so do subprocesses.
        """
        data, template = self.folder / "data", templates() / type(self).__name__
        with alone(templates()):
            if not template.is_dir():
                make()
                made = template.with_suffix(".new")
                shutil.rmtree(made, ignore_errors=True)  # Of a process that was killed.
                run("cp", "-a", str(data), str(made))
                made.rename(template)
                return
        run("cp", "-a", str(template), str(data))

    def url(self) -> str:
        return self.addresses[0]

    def account(self) -> str | None:
        """Return the first account of `accounts` that exists, for root; None for anybody else."""
        if sys.platform == "win32" or os.geteuid() != 0:
            return None
        import pwd

        names = {entry.pw_name for entry in pwd.getpwall()}
        return next((name for name in self.accounts if name in names), None)

    def as_account(self) -> dict[str, Any]:
        """Arguments of `subprocess` for a program that refuses to run as root."""
        account = self.account()
        return {"user": account, "extra_groups": []} if account else {}

    def environment(self) -> dict[str, str] | None:
        """Return the environment of the server; None for that of this process."""
        return None

    def find_program(self) -> str:
        """Return the path of the server's program; skip the test if it is not installed."""
        program = executable(*self.executables)
        if program is None:
            skip_or_fail(f"{self.name} is not installed. Install it with: {self.install_hint}")
        return program

    def start(self) -> Self:
        self._program = self.find_program()
        for _ in range(3):  # Another test run may take the port between the look and the start.
            self.ports = [free_port()]
            self._folder = temporary_folder()
            if account := self.account():
                shutil.chown(self._folder, account)
            self.prepare()
            _running.append(self)
            with contextlib.suppress(_EarlyEnd):
                self._spawn()
                return self
            said = self.log()
            self.stop()
        raise RuntimeError(f"{self.name} does not start:\n{said}")

    def _spawn(self) -> None:
        log: IO[bytes]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal is for pytest, which then stops the servers in order.
                start_new_session=True,
                env=self.environment(),
                **self.as_account(),
            )
        wait_until(self._is_up, f"{self.name} answers")

    def _is_up(self) -> bool:
        answered = self.answers()
        # In this order: with the port lost to another server, that one is who answered.
        if not self.is_running:
            raise _EarlyEnd
        return answered

    def log(self) -> str:
        """Return the log of the server so far."""
        return (self.folder / "log").read_text(errors="replace")

    def processes(self) -> list[int]:
        """Return the process ids that make up the server, the parent first."""
        return [self.pid]

    def pause(self) -> None:
        if self._paused:
            return
        os.kill(self.pid, SIGSTOP)
        # Until every thread stands still, or one might still answer.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        self._paused = self.processes()  # Only now: a stopped parent forks no more.
        for pid in self._paused[1:]:
            os.kill(pid, SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(self._paused):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGCONT)
        self._paused = []

    def kill(self) -> None:
        self._end(SIGKILL)
        # A child process that is still ending may hold the port for a moment.
        wait_until(lambda: not any(map(accepts, self.ports)), f"{self.name} refuses")

    def restart(self) -> None:
        self._end(self.stop_signal)
        # PostgreSQL refuses to start while a child lives that it forked when it was killed.
        wait_until(self._has_spawned, f"{self.name} starts again")

    def _has_spawned(self) -> bool:
        try:
            self._spawn()
        except _EarlyEnd:
            return False
        return True

    def stop(self) -> None:
        self._end(self.stop_signal)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self in _running:
            _running.remove(self)

    def _end(self, how: int) -> None:
        if self._process is None:
            return
        if self.is_running:
            if how == SIGKILL:
                # Children that hold connections do not end with their parent. SIGKILL also ends
                # what is stopped. Some of them end by themselves, without their parent.
                for pid in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, SIGKILL)
            else:
                self._process.send_signal(how)
                self.resume()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(SIGKILL)
        self._paused = []
        self._process = None


class _EarlyEnd(Exception):
    pass


class Redis(Server):
    """Options are redis.conf's, with underscores: ``Redis(maxmemory="3mb", appendonly="yes")``."""

    name = "redis"
    executables = ("redis-server",)
    debian_package = "redis-server"

    def __init__(self, **options: str) -> None:
        super().__init__()
        self.options = options

    def command(self) -> list[str]:
        options = {"port": str(self.port), "bind": HOST, "save": "", "appendonly": "no"}
        options |= self.options
        flags = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
        return [self._program, *(part for flag in flags for part in flag)]

    # Redis runs as anybody, root included, but leaves files that only its account can remove.
    def as_account(self) -> dict[str, Any]:
        return {}

    def account(self) -> None:
        return None

    def answers(self) -> bool:
        return answer(self.port, b"PING\r\n") == b"+PONG\r\n"

    def url(self, database: int = 0) -> str:
        return f"redis://{HOST}:{self.port}/{database}"

    def cli(self, *arguments: str | bytes) -> str:
        """Return what redis-cli prints for a command.

        Only what redis-cli itself does, such as ``--scan``, needs that program. Commands are asked
        without it, because some tests ask hundreds, and a process costs more than most answers.
        """
        if not str(arguments[0]).startswith("--"):
            return self._ask(*arguments)
        program = executable("redis-cli")
        if program is None:
            skip_or_fail("redis-cli is not installed. Install it with: apt-get install redis-tools")
        return run(program, "-h", HOST, "-p", str(self.port), *arguments).strip()

    def _ask(self, *command: str | bytes) -> str:
        parts = [part.encode() if isinstance(part, str) else part for part in command]
        lines = [b"*%d" % len(parts)]
        for part in parts:
            lines += [b"$%d" % len(part), part]
        with (
            socket.create_connection((HOST, self.port), timeout=START_SECONDS) as connection,
            connection.makefile("rb") as stream,
        ):
            connection.sendall(b"\r\n".join([*lines, b""]))
            answered = list(_parts_of_answer(stream))
        text = "\n".join(part.decode(errors="replace") for part in answered)
        return text.replace("\r\n", "\n").strip()


def _parts_of_answer(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what Redis answers to one command, without the structure of arrays."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis has closed the connection")
    kind, text = line[:1], line[1:-2]
    if kind == b"*":
        for _ in range(int(text)):
            yield from _parts_of_answer(stream)
    elif kind == b"$":
        yield stream.read(int(text) + 2)[:-2] if text != b"-1" else b""
    else:
        yield text


class Replica(Redis):
    """Follows a master that runs already. Up when it holds what the master holds."""

    name = "redis replica"

    def __init__(self, master: Redis, **options: str) -> None:
        super().__init__(**options)
        self.master = master

    def command(self) -> list[str]:
        return [*super().command(), "--replicaof", HOST, str(self.master.port)]

    def answers(self) -> bool:
        return b"master_link_status:up" in answer(self.port, b"INFO replication\r\n")


class Sentinel(Redis):
    """Watches one master, whose name is `MASTER`. `port` is the sentinel's own.

    After `patience` seconds without an answer the master is down for it.
    """

    name = "redis sentinel"
    MASTER = "sessions"

    def __init__(self, master: Redis, quorum: int, patience: float) -> None:
        super().__init__()
        self.master = master
        self.quorum = quorum
        self.patience = patience

    def prepare(self) -> None:
        # A file, because a sentinel writes what it learns into it.
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\n"
            f"bind {HOST}\n"
            f"sentinel monitor {self.MASTER} {HOST} {self.master.port} {self.quorum}\n"
            f"sentinel down-after-milliseconds {self.MASTER} {round(self.patience * 1000)}\n"
            f"sentinel failover-timeout {self.MASTER} 3000\n"
        )

    def command(self) -> list[str]:
        return [self._program, "sentinel.conf", "--sentinel"]


class Memcached(Server):
    """Flags are memcached's own: ``Memcached("-m", "8")``."""

    name = "memcached"
    executables = ("memcached",)
    debian_package = "memcached"
    stop_signal = SIGKILL  # It keeps nothing, and takes up to a second to hear a polite signal.

    def __init__(self, *flags: str) -> None:
        super().__init__()
        self.flags = flags

    def command(self) -> list[str]:
        return [self._program, "-l", HOST, "-p", str(self.port), "-U", "0", *self.flags]

    def answers(self) -> bool:
        return answer(self.port, b"version\r\n").startswith(b"VERSION ")


class MongoDB(Server):
    """Arguments are mongod's: ``MongoDB("--auth")``. Options are its parameters.

    It is a replica set of one node, which has transactions and repeats writes, or with
    ``replica_set=""`` a server without one. It removes what has expired only if told to
    (``ttlMonitorEnabled="true"``): tests have clocks of their own.
    """

    name = "mongodb"
    executables = ("mongod",)
    debian_package = ""
    stop_signal = SIGKILL  # A primary waits for its secondaries; what was acknowledged is on disk.
    CACHED = Path(__file__).parent.parent / ".cache/mongod"
    """Where `.ci/run` puts a server that no package of Debian has."""
    PARAMETERS: ClassVar = {
        "enableTestCommands": "1",
        "ttlMonitorEnabled": "false",
        "diagnosticDataCollectionEnabled": "false",
    }

    def __init__(
        self,
        *arguments: str,
        replica_set: str = "sessions",
        is_member: bool = False,
        **options: str,
    ) -> None:
        super().__init__()
        self.arguments = arguments
        self.replica_set = replica_set
        self.is_member = is_member
        """Whether it waits for others before it is a replica set."""
        self.options = options

    @property
    def install_hint(self) -> str:
        return (
            "a server of MongoDB from its makers, so that mongod is on the PATH. The function "
            "install_mongod of .ci/run puts one into .cache/mongod"
        )

    def find_program(self) -> str:
        cached = self.CACHED / "bin/mongod"
        return (
            str(cached) if not executable("mongod") and cached.exists() else super().find_program()
        )

    def environment(self) -> dict[str, str] | None:
        if not self._program.startswith(str(self.CACHED)):
            return None
        return {**os.environ, "LD_LIBRARY_PATH": str(self.CACHED / "lib")}

    # It runs as anybody, root included, and an account of its own could not reach the program.
    def account(self) -> None:
        return None

    def prepare(self) -> None:
        (self.folder / "data").mkdir()

    def command(self) -> list[str]:
        parameters = {**self.PARAMETERS, **self.options}
        return [
            *(self._program, "--bind_ip", HOST, "--port", str(self.port), "--nounixsocket"),
            *("--dbpath", str(self.folder / "data"), "--wiredTigerCacheSizeGB", "0.25"),
            # What is acknowledged is flushed at once. Of what is not, it looks less often.
            *("--journalCommitInterval", "500"),
            *(("--replSet", self.replica_set, "--oplogSize", "64") if self.replica_set else ()),
            *(f"--setParameter={name}={value}" for name, value in parameters.items()),
            *self.arguments,
        ]

    def answers(self) -> bool:
        said = self.ask({"hello": 1})
        return bool(said.get("ok")) and (self.is_member or said["isWritablePrimary"])

    def _spawn(self) -> None:
        waits, self.is_member = self.is_member, True
        super()._spawn()
        self.is_member = waits
        if not waits:
            if self.replica_set and not self.ask({"hello": 1}).get("setName"):
                self.initiate(self)
            wait_until(self._is_up, f"{self.name} is a primary")

    def initiate(self, *members: "MongoDB", patience: float = 1) -> None:
        """Make a replica set of this server and the others. See `MongoReplicaSet` for the last."""
        configuration = {
            "_id": self.replica_set,
            "members": [{"_id": each.port, "host": each.addresses[0]} for each in members],
            "settings": {
                "electionTimeoutMillis": round(patience * 1000),
                "heartbeatIntervalMillis": round(patience * 200),
                # One that hangs must not hold up those that would read from it.
                "chainingAllowed": False,
            },
        }
        said = self.ask({"replSetInitiate": configuration})
        # A member that was restarted says what set it belongs to when it has read that.
        if not said.get("ok") and said.get("codeName") != "AlreadyInitialized":
            raise RuntimeError(f"{self.name} does not become a replica set: {said}")

    def ask(
        self, command: dict[str, Any], database: str = "admin", seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        """Return what the server says to a command; an empty dict if it says nothing."""
        import bson

        body = b"\0\0\0\0\0" + bson.encode({**command, "$db": database})
        head = struct.pack("<iiii", 16 + len(body), 1, 0, 2013)
        try:
            with socket.create_connection((HOST, self.port), seconds) as connection:
                connection.sendall(head + body)
                with connection.makefile("rb") as said:
                    (size,) = struct.unpack("<i", said.read(4))
                    answered = said.read(size - 4)[17:]
        except (OSError, struct.error):
            return {}
        # A moment may be one that Python has no object for.
        options = bson.CodecOptions(datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO)
        return bson.decode(answered, options)

    def url(self) -> str:
        name = f"?replicaSet={self.replica_set}" if self.replica_set else ""
        return f"mongodb://{self.addresses[0]}/{name}"


class Nginx(Server):
    """A reverse proxy to the given port of this machine, with nginx's own limits."""

    name = "nginx"
    executables = ("nginx",)
    debian_package = "nginx"

    def __init__(self, upstream: int) -> None:
        super().__init__()
        self.upstream = upstream

    def prepare(self) -> None:
        folders = "".join(
            f"    {kind}_temp_path {kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            "daemon off;\n"
            "master_process off;\n"  # One process, to be paused and killed as a whole.
            "pid nginx.pid;\n"
            "events {}\n"
            "http {\n"
            "    access_log off;\n"
            f"{folders}"
            "    server {\n"
            f"        listen {HOST}:{self.port};\n"
            "        location / {\n"
            f"            proxy_pass http://{HOST}:{self.upstream};\n"
            "            proxy_set_header Host $http_host;\n"
            "        }\n"
            "    }\n"
            "}\n"
        )

    def command(self) -> list[str]:
        folder = str(self.folder)
        # Its default log of errors is a file that only root may write.
        return [self._program, "-e", "stderr", "-p", folder, "-c", "nginx.conf"]

    def answers(self) -> bool:
        # Refused by nginx itself: the site behind it is not asked.
        return b"<center>nginx" in answer(self.port, b"?\r\n\r\n")

    def url(self) -> str:
        return f"http://{self.addresses[0]}"


class PostgreSQL(Server):
    """Options are postgresql.conf's: ``PostgreSQL(max_connections="20")``."""

    name = "postgresql"
    executables = ("postgres",)
    debian_package = "postgresql"
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # Its "fast" shutdown: open connections are closed, not waited for.
    USER = DATABASE = "postgres"

    def __init__(self, **options: str) -> None:
        super().__init__()
        self.options = options

    def prepare(self) -> None:
        initdb = executable("initdb")
        assert initdb is not None, "initdb comes with postgres"
        self.make_data(
            lambda: run(
                *(initdb, "-D", str(self.folder / "data"), "-U", self.USER, "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
                cwd=self.folder,
                **self.as_account(),
            )
        )

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "listen_addresses": HOST,
            "unix_socket_directories": str(self.folder),
            # In the folder, and so removed with it even after `kill`.
            "dynamic_shared_memory_type": "mmap",
            **self.options,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self._program, "-D", str(self.folder / "data"), *settings]

    def answers(self) -> bool:
        # Asks for TLS, the one question it answers before log-in, but answers while it starts,
        # too: hence the line in the log.
        return answer(self.port, b"\0\0\0\x08\x04\xd2\x16\x2f", 1) in {b"N", b"S"} and (
            "ready to accept connections" in self.log().rpartition("starting PostgreSQL")[2]
        )

    def processes(self) -> list[int]:
        # A process per connection, each a session leader: no signal to a group reaches them.
        return [self.pid, *children(self.pid)]

    def url(self) -> str:
        return f"postgresql://{self.USER}@{HOST}:{self.port}/{self.DATABASE}"


class MariaDB(Server):
    """Flags are mariadbd's: ``MariaDB("--max-connections=20")``."""

    name = "mariadb"
    executables = ("mariadbd", "mysqld")
    debian_package = "mariadb-server"
    accounts = ("mysql", "nobody")
    USER = "root"
    DATABASE = "sessions"

    def __init__(self, *flags: str) -> None:
        super().__init__()
        self.flags = flags

    # The programs change the account themselves.
    def as_account(self) -> dict[str, Any]:
        return {}

    def _common(self) -> list[str]:
        account = self.account()
        return ["--no-defaults", f"--datadir={self.folder / 'data'}"] + (
            [f"--user={account}"] if account else []
        )

    def prepare(self) -> None:
        install = executable("mariadb-install-db", "mysql_install_db")
        if install is None:
            skip_or_fail(f"mariadb-install-db is missing. Install it with: {self.install_hint}")
        self.make_data(
            lambda: run(
                *(install, *self._common(), "--skip-test-db", "--skip-name-resolve"),
                # Two of them in one folder for temporary tables disturb each other.
                *("--auth-root-authentication-method=normal", f"--tmpdir={self.folder}"),
            )
        )
        (self.folder / "init.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {self.DATABASE} CHARACTER SET utf8mb4;"
        )

    def command(self) -> list[str]:
        return [
            *(self._program, *self._common(), f"--port={self.port}", f"--bind-address={HOST}"),
            *(f"--socket={self.folder / 'socket'}", f"--init-file={self.folder / 'init.sql'}"),
            *("--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=32M"),
            # Each look whether it answers breaks off before log-in, which it counts and punishes.
            *("--max-connect-errors=1000000", *self.flags),
        ]

    def answers(self) -> bool:
        return answer(self.port, b"", 5)[4:] == b"\n"  # Its greeting: protocol version 10.

    def url(self) -> str:
        return f"mysql://{self.USER}@{HOST}:{self.port}/{self.DATABASE}"


def children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    if listing.exists():
        return [int(child) for child in listing.read_text().split()]
    pairs = (line.split() for line in run("ps", "-A", "-o", "pid=,ppid=").splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


class Group(Service):
    """Several servers as one. A single member is paused, killed or restarted through `members`."""

    members: Sequence[Server]

    def __init__(self) -> None:
        self.ports = []

    def start(self) -> Self:
        try:
            for member in self.members:
                member.start()
            self.ports = [member.port for member in self.members]
            self.join()
        except BaseException:
            self.stop()
            raise
        return self

    def join(self) -> None:
        """Make one service of the started members."""

    def stop(self) -> None:
        for member in reversed(self.members):
            member.stop()

    def pause(self) -> None:
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        for member in self.members:
            member.resume()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def restart(self) -> None:
        for member in self.members:
            member.restart()


class MemcachedNodes(Group):
    """Nodes that know nothing of each other: the client spreads the keys."""

    name = "memcached nodes"

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.members = [Memcached() for _ in range(count)]


class RedisCluster(Group):
    """Three masters, every slot assigned, with so many replicas each."""

    name = "redis cluster"

    def __init__(self, replicas: int = 0, **options: str) -> None:
        super().__init__()
        self.replicas = replicas
        # Without the delay, which waits for more replicas, each has its copy at once.
        options = {"repl_diskless_sync_delay": "0", **options}
        self.members: list[Redis] = [
            Redis(cluster_enabled="yes", cluster_node_timeout="2000", **options)
            for _ in range(3 * (1 + replicas))
        ]

    def join(self) -> None:
        replicas = ["--cluster-replicas", str(self.replicas)] if self.replicas else []
        self.members[0].cli("--cluster", "create", *self.addresses, *replicas, "--cluster-yes")
        self._wait_until_whole()

    def restart(self) -> None:
        super().restart()
        self._wait_until_whole()

    def _wait_until_whole(self) -> None:
        wait_until(
            lambda: all("cluster_state:ok" in node.cli("cluster", "info") for node in self.members),
            "the cluster serves every slot",
        )
        wait_until(
            lambda: (
                not any(
                    "master_link_status:down" in node.cli("info", "replication")
                    for node in self.members
                )
            ),
            "each replica has a copy, without which it replaces no primary",
        )

    def url(self) -> str:
        return self.members[0].url()


class RedisSentinel(Group):
    """A master, a replica and sentinels that make the replica the master when that one is gone.

    A master that had to wait for a busy machine is not gone, hence the long `patience`; tests in
    which it goes have less. Options are those of the master and the replica.
    """

    name = "redis with sentinel"

    def __init__(self, sentinels: int = 1, patience: float = 60, **options: str) -> None:
        super().__init__()
        # Else the master waits 5 s for more replicas before the first one gets its data.
        self.master = Redis(repl_diskless_sync_delay="0", **options)
        self.replica = Replica(self.master, **options)
        self.sentinels = [
            Sentinel(self.master, sentinels // 2 + 1, patience) for _ in range(sentinels)
        ]
        # In this order: a sentinel asks for the replicas when it starts, then only every 10 s.
        self.members = [self.master, self.replica, *self.sentinels]

    def join(self) -> None:
        others = str(len(self.sentinels) - 1)
        wait_until(
            lambda: all(
                self._fact(sentinel, "num-slaves") == "1"
                and self._fact(sentinel, "num-other-sentinels") == others
                for sentinel in self.sentinels
            ),
            "the sentinels know the replica and each other",
        )

    def _fact(self, sentinel: Sentinel, name: str) -> str:
        lines = sentinel.cli("sentinel", "master", sentinel.MASTER).splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=False)).get(name, "")

    def url(self) -> str:
        """As django-redis takes it, with `sentinel_addresses` as its option SENTINELS.

        Nobody connects to the port: django-redis keeps the pool of each address, which knows the
        sentinels of its first use.
        """
        return f"redis://{Sentinel.MASTER}:{self.port}/0"

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        return [(HOST, sentinel.port) for sentinel in self.sentinels]


class MongoReplicaSet(Group):
    """Three members, of which one is the primary. If it is gone, another one is, in a second.

    ``patience`` is for how many seconds the others wait for it. The default of MongoDB is 10, for
    which tests do not wait.
    """

    name = "mongodb replica set"
    members: list[MongoDB]

    def __init__(self, patience: float = 1, **options: str) -> None:
        super().__init__()
        self.patience = patience
        self.members = [MongoDB(is_member=True, **options) for _ in range(3)]

    def join(self) -> None:
        first, *_ = self.members
        first.initiate(*self.members, patience=self.patience)
        self.wait_until_whole()

    def restart(self) -> None:
        super().restart()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until there is a primary, and the other members follow it."""

        def is_whole() -> bool:
            said = [each.ask({"hello": 1}) for each in self.members]
            has_primary = any(each.get("isWritablePrimary") for each in said)
            return has_primary and all(
                each.get("isWritablePrimary") or each.get("secondary") for each in said
            )

        wait_until(is_whole, "the replica set has a primary and two secondaries")

    @property
    def primary(self) -> MongoDB:
        """The member that is the primary; ``LookupError`` while there is none."""
        for each in self.members:
            if each.is_running and each.ask({"hello": 1}).get("isWritablePrimary"):
                return each
        raise LookupError("No member is the primary")

    def url(self) -> str:
        return f"mongodb://{','.join(self.addresses)}/?replicaSet={self.members[0].replica_set}"


_running: list[Server] = []
_refusing: list[socket.socket] = []
_folders: list[Path] = []
_owner = os.getpid()

S = TypeVar("S", bound=Service)


def _environment_name(kind: type[Service]) -> str:
    return f"SESSIONSTORES_TEST_{kind.__name__.upper()}_PORTS"


@cache
def shared_service(kind: type[S]) -> S:
    """Return the instance of this test run, or the parent process's in a subprocess of a test."""
    service = kind()
    if ports := os.environ.get(_environment_name(kind)):
        service.ports = [int(port) for port in ports.split()]
        return service
    service.start()
    os.environ[_environment_name(kind)] = " ".join(map(str, service.ports))
    return service


@contextlib.contextmanager
def stand_in_for_shared(service: Service) -> Iterator[None]:
    """Subprocesses started meanwhile take this instance for the shared one of its kind."""
    name = _environment_name(type(service))
    before = os.environ.get(name)
    os.environ[name] = " ".join(map(str, service.ports))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@atexit.register
def stop_all() -> None:
    """Stop what this process started. Not a fork of it: a child that ends keeps them running."""
    if os.getpid() == _owner:
        for server in reversed(_running[:]):
            server.stop()
        for folder in _folders:
            shutil.rmtree(folder, ignore_errors=True)

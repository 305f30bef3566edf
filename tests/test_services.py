"""The servers do what outage tests rely on. Where one of these fails, so do those, misleadingly."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests import services
from tests.services import Service

pytestmark = pytest.mark.slow


def nginx() -> Service:
    """In front of nothing: what it says by itself is enough."""
    return services.Nginx(upstream=services.refusing_port())


KINDS: list[Callable[[], Service]] = [
    services.Redis,
    services.RedisCluster,
    services.RedisSentinel,
    services.Memcached,
    services.MemcachedNodes,
    services.PostgreSQL,
    services.MariaDB,
    services.MongoDB,
    services.MongoReplicaSet,
    nginx,
]


def _members(service: Service) -> list[services.Server]:
    if isinstance(service, services.Group):
        return list(service.members)
    assert isinstance(service, services.Server)
    return [service]


def _answering(service: Service) -> list[bool]:
    return [member.answers() for member in _members(service)]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with request.param() as started:
        yield started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is found out in a tenth of a second."""
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.1)


def test_a_started_service_answers_on_every_port(service: Service) -> None:
    """Tests would otherwise fail by chance while a server is still starting."""
    assert all(_answering(service))


def test_a_paused_service_accepts_and_says_nothing(service: Service, impatient: None) -> None:
    """A stalled server, not a refusing one: a pause that refuses would test the wrong outage."""
    service.pause()

    assert all(map(services.accepts, service.ports))
    assert not any(_answering(service))


def test_a_resumed_service_answers_again(service: Service) -> None:
    """The way back from an outage is tested on the same server with the same data."""
    service.pause()
    service.resume()

    services.wait_until(lambda: all(_answering(service)), "it answers")


def test_a_killed_service_refuses(service: Service) -> None:
    """A child process that still held the port would turn the refusal into a stall."""
    service.kill()

    assert not any(map(services.accepts, service.ports))


def test_a_restarted_service_is_back_on_its_ports(service: Service) -> None:
    """Clients keep the address: on another port they would never find the server again."""
    ports = list(service.ports)
    service.kill()
    service.restart()

    assert service.ports == ports
    assert all(_answering(service))


def test_stop_ends_a_paused_service_and_removes_its_folder(service: Service) -> None:
    """A test that fails in the midst of an outage must leave no process and no data behind."""
    members = _members(service)
    pids, folders = [member.pid for member in members], [member.folder for member in members]
    service.pause()
    service.stop()

    assert not any(map(_exists, pids))
    assert not any(folder.exists() for folder in folders)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_pause_stops_open_postgresql_connections() -> None:
    """PostgreSQL serves each connection by a process of its own. With only the parent stopped,
    connections that are open would go on as if nothing were the matter."""
    psycopg = pytest.importorskip("psycopg")
    with services.PostgreSQL() as server, closing(psycopg.connect(server.url())) as connection:
        server.pause()
        connection.pgconn.send_query(b"SELECT 1")
        answered_while_paused = _readable(connection.pgconn.socket, seconds=0.3)
        server.resume()

        assert not answered_while_paused
        assert _readable(connection.pgconn.socket, seconds=10)


def _readable(file: int, seconds: float) -> bool:
    return bool(select.select([file], [], [], seconds)[0])


def test_a_subprocess_shares_the_instance_of_its_parent() -> None:
    """Writers in other processes must meet in one store; each on a server of its own, they would
    never conflict and every test of lost updates would pass."""
    port = services.shared_service(services.Redis).port
    code = "from tests import services; print(services.shared_service(services.Redis).port)"

    assert services.run(sys.executable, "-c", code).strip() == str(port)


def test_a_private_instance_stands_in_for_the_shared_one() -> None:
    """Workers of a test that kills its own server must be hit by that outage too."""
    code = "from tests import services; print(services.shared_service(services.Redis).port)"
    with services.Redis() as private, services.stand_in_for_shared(private):
        assert services.run(sys.executable, "-c", code).strip() == str(private.port)


def test_options_reach_the_server() -> None:
    """Out of memory is tested on a full server: without its limit, it never gets full."""
    with services.Redis(maxmemory="3mb") as redis:
        assert redis.cli("config", "get", "maxmemory").split() == ["maxmemory", "3145728"]


@pytest.mark.parametrize(
    "command", ["set pet cat", "get pet", "get none", "config get maxmemory*", "info clients", "no"]
)
def test_a_command_is_answered_as_redis_cli_prints_it(command: str) -> None:
    """An error is printed as well, and some tests look for its words."""
    program = services.executable("redis-cli")
    if program is None:
        services.skip_or_fail("redis-cli is not installed")
    redis = services.shared_service(services.Redis)
    said = services.run(program, "-p", str(redis.port), *command.split())
    assert redis.cli(*command.split()) == said.strip()


def _start_missing() -> None:
    class Missing(services.Redis):
        name = "no such server"
        executables = ("no-such-server",)

    Missing().start()


def test_a_missing_server_skips_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer does not have to find out what to install."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("SESSIONSTORES_REQUIRE_SERVERS", raising=False)

    with pytest.raises(pytest.skip.Exception, match="apt-get install redis-server"):
        _start_missing()


@pytest.mark.parametrize("name", ["CI", "SESSIONSTORES_REQUIRE_SERVERS"])
def test_a_missing_server_fails_where_everything_must_run(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A green run that skipped PostgreSQL has shown nothing about PostgreSQL."""
    monkeypatch.setenv(name, "1")

    with pytest.raises(pytest.fail.Exception, match="apt-get install redis-server"):
        _start_missing()


def test_an_interrupted_process_leaves_no_server() -> None:
    """Ctrl-C ends a test run in any line; servers left behind would pile up run by run."""
    services.Redis().find_program()
    code = (
        "import signal, time\n"
        # A shell has its jobs in the background ignore it, and so would what they start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests import services\n"
        "print(services.shared_service(services.Redis).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {name: value for name, value in os.environ.items() if "TEST_REDIS" not in name}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(services.signal.SIGINT)
        process.communicate(timeout=30)

    assert not _exists(pid)

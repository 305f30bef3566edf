"""The lines that a process logs about outages; the clock is the test's.

What real stores cause to be logged is in `tests.test_outage_lines`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from django_sessionstores.core import clock
from django_sessionstores.exceptions import PartlyEnded, StorageFull, StorageUnavailable
from django_sessionstores.logs import IgnoreOutages
from django_sessionstores.storages.breaker import SLOW, Breaker
from django_sessionstores.storages.outage_log import INTERVAL, QUIET, OutageLog
from tests.storages.test_breaker import Clock


@pytest.fixture(autouse=True)
def time() -> Iterator[Clock]:
    time = Clock()
    with clock.use(monotonic=time):
        yield time


@pytest.fixture
def log() -> OutageLog:
    return OutageLog(lambda: "the store")


def fail(log: OutageLog, operation: object = None) -> None:
    log.failed(StorageUnavailable("The store does not answer."), operation)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the level and the text of each line since the last call."""
    found = [(each.levelname, each.getMessage()) for each in caplog.records]
    caplog.clear()
    return found


def kinds(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return "begins", "continues" or "is over" for each line since the last call."""
    return [
        text.removeprefix("Session store outage ").partition(":")[0] for _, text in lines(caplog)
    ]


def test_the_first_failure_is_an_error(log: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    fail(log)
    text = "Session store outage begins: The store does not answer."
    assert lines(caplog) == [("ERROR", text)]


def test_an_outage_begins_with_the_first_call_that_waits(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """And not when the call gives up."""
    breaker = Breaker(log)
    for _ in range(2):
        first = breaker.begin()
        time.now += 3
        second = breaker.begin()
        time.now += 7
        for began in (second, first):
            error = StorageUnavailable("The store does not answer.")
            breaker.failed(began, error)
            log.failed(error)
        time.now += QUIET
        breaker.answered()
        log.succeeded()
        (_, (_, text)) = lines(caplog)
        assert f"It began {10 + QUIET} s ago, the last call failed {QUIET} s ago" in text


def test_a_line_a_minute_counts_the_others(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fail(log)
    lines(caplog)
    for _ in range(5):
        time.now += INTERVAL / 6
        fail(log)
    assert lines(caplog) == []
    time.now += INTERVAL / 6
    fail(log)
    text = (
        "Session store outage continues: The store does not answer. Calls failed: 7 in the 60.0 s "
        "since it began"
    )
    assert lines(caplog) == [("WARNING", text)]
    time.now += 2 * INTERVAL
    fail(log)
    counts = "Calls failed: 8 in the 180.0 s since it began, 1 in the last 120.0 s"
    assert lines(caplog)[0][1].endswith(counts)


def test_a_success_ends_it(log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The line says how long it lasted. It is a warning, or most projects would not see it."""
    fail(log)
    time.now += 30
    fail(log)
    time.now += QUIET + 0.5
    assert log.is_open
    log.succeeded()
    assert not log.is_open
    text = (
        "Session store outage is over: the store. It began 40.5 s ago, the last call failed 10.5 s "
        "ago. Calls failed: 2"
    )
    assert lines(caplog)[1:] == [("WARNING", text)]
    log.succeeded()
    assert lines(caplog) == []


def test_a_failover_is_one_outage(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Some calls succeed before others fail for another reason."""
    for reason in ("has no primary", "did not answer", "has changed its primary"):
        log.failed(StorageUnavailable(reason), reason=reason)
        log.succeeded()
        time.now += QUIET - 0.1
        log.succeeded()
    assert kinds(caplog) == ["begins", "continues", "continues"]
    time.now += 0.1
    log.succeeded()
    ((_, text),) = lines(caplog)
    assert text.endswith("It began 29.8 s ago, the last call failed 10.0 s ago. Calls failed: 3")


def test_an_error_counts_once(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It may pass several layers, each of which may be the last one."""
    error = StorageUnavailable("The store does not answer.")
    assert not error.was_logged
    log.failed(error)
    log.failed(error)
    OutageLog(lambda: "another layer").failed(error)
    assert error.was_logged
    time.now += QUIET
    log.succeeded()
    assert lines(caplog)[-1][1].endswith("Calls failed: 1")
    assert len(kinds(caplog)) == 0


def test_what_only_refuses_writes_is_not_over_when_it_is_read(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: reads go on, and only the operation that was refused proves anything."""
    fail(log, "UPDATE")
    time.now += QUIET
    log.succeeded("SELECT")
    fail(log, "UPDATE")
    assert kinds(caplog) == ["begins"]
    time.now += QUIET
    log.succeeded("UPDATE")
    assert kinds(caplog) == ["is over"]


def test_a_refusal_that_nobody_repeats_is_over_after_a_while(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise an outage a day later would be taken for the same one."""
    fail(log, "UPDATE")
    time.now += INTERVAL - 0.1
    log.succeeded("SELECT")
    assert kinds(caplog) == ["begins"]
    time.now += 0.1
    log.succeeded("SELECT")
    assert kinds(caplog) == ["is over"]


def test_a_store_that_fails_now_and_then_does_not_flood_the_log(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """At its connection limit, it serves those who have a connection, and refuses the others."""
    for _ in range(300):
        fail(log)
        log.succeeded()
        time.now += 0.1
    assert kinds(caplog) == ["begins"]
    time.now += QUIET
    log.succeeded()
    assert kinds(caplog) == ["is over"]


def test_another_reason_has_a_line_of_its_own(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A database is read-only, then refuses connections: the first line would mislead."""
    for reason in ("read-only", "full", "read-only", "full", "full. Nobody has waited"):
        log.failed(StorageUnavailable(f"The store is {reason}."), reason=f"is {reason}")
        time.now += 1
    (_, begins), (level, changes) = lines(caplog)
    assert begins.endswith("The store is read-only.")
    assert level == "WARNING"
    assert changes == (
        "Session store outage continues: The store is full. Calls failed: 2 in the 1.0 s since it "
        "began"
    )


def test_ever_other_reasons_do_not_flood_the_log(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        log.failed(StorageUnavailable(f"Error {number:03}"))
        if number % 10 == 9:
            log.succeeded()
        time.now += 0.2
    assert len(lines(caplog)) < 10


def test_many_threads_write_one_line(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    barrier = threading.Barrier(8)

    def fail_often() -> None:
        barrier.wait()
        for _ in range(500):
            fail(log)

    threads = [threading.Thread(target=fail_often) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    time.now += QUIET
    log.succeeded()
    (_, begin), (_, end) = lines(caplog)
    assert "begins" in begin
    assert end.endswith("Calls failed: 4000")


def test_no_lock_is_held_while_a_line_is_written(log: OutageLog) -> None:
    """A handler may wait, for a disk or a network, and may use sessions itself."""
    other = OutageLog(lambda: "another store")
    written: list[str] = []

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            self.emit(record)  # Without the lock of each handler, which is not meant here.
            return True

        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())
            if len(written) == 1:
                thread = threading.Thread(target=fail, args=[other])
                thread.start()
                thread.join(5)
                assert not thread.is_alive()

    handler = Handler()
    logger = logging.getLogger("django_sessionstores")
    logger.addHandler(handler)
    try:
        fail(log)
    finally:
        logger.removeHandler(handler)
    assert len(written) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_begins_anew(log: OutageLog, time: Clock) -> None:
    """The outage is its parent's: it neither ends that nor waits for a lock of a lost thread."""
    fail(log)
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        from django_sessionstores.storages import outage_log

        with outage_log._lock:
            taken.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said: list[str] = []
        signal.alarm(20)  # If it waits for a lock for ever.
        try:
            handler = logging.Handler()
            handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
            logger = logging.getLogger("django_sessionstores")
            logger.handlers, logger.propagate = [handler], False
            log.succeeded()
            fail(log)
            time.now += QUIET
            log.succeeded()
        finally:
            os.write(writing, "\n".join(said).encode())
            os._exit(0)
    os.close(writing)
    release.set()
    holder.join()
    with os.fdopen(reading) as pipe:
        said = pipe.read().splitlines()
    os.waitpid(child, 0)
    assert len(said) == 2
    assert said[0].startswith("Session store outage begins")
    assert "It began 10.0 s ago" in said[1]
    assert said[1].endswith("Calls failed: 1")
    assert log.is_open


def test_a_breaker_counts_the_calls_that_it_refuses(
    log: OutageLog, time: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """They fail as much as the one that waits, and their requests are answered with an error."""
    breaker = Breaker(log)
    began = breaker.begin()
    time.now += 2 * SLOW
    failure = StorageUnavailable("The store does not answer.")
    breaker.failed(began, failure)
    log.failed(failure)
    breaker.begin()
    for _ in range(10):
        with pytest.raises(StorageUnavailable) as refused:
            breaker.begin()
        assert refused.value.was_logged
    time.now += QUIET
    log.succeeded()
    assert lines(caplog)[-1][1].endswith("Calls failed: 11")


# The filter for LOGGING ---------------------------------------------------------------------------


def record_of(error: BaseException | None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, None)
    return logging.LogRecord("django.request", logging.ERROR, "", 0, "Error", (), exc_info)


def test_the_filter_drops_outages_that_were_counted(log: OutageLog) -> None:
    error = StorageFull("The store is full.")
    assert IgnoreOutages().filter(record_of(error))
    log.failed(error)
    assert not IgnoreOutages().filter(record_of(error))
    assert not IgnoreOutages().filter(record_of(PartlyEnded(3, error)))


def test_the_filter_keeps_everything_else() -> None:
    assert IgnoreOutages().filter(record_of(None))
    assert IgnoreOutages().filter(record_of(ValueError()))

"""The breaker of a server that hangs; the clock is the test's.

What it means for real servers that hang is in `test_hung_servers`.
"""

import os
from collections.abc import Iterator

import pytest
from django.test import override_settings

from django_sessionstores.core import clock
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.breaker import PATIENCE, SLOW, Breaker, JointBreaker
from django_sessionstores.storages.outage_log import OutageLog

RETRY = 5.0


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def time() -> Iterator[Clock]:
    time = Clock()
    with (
        clock.use(monotonic=time),
        override_settings(SESSIONSTORES={"STORE_RETRY": RETRY}),
    ):
        yield time


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(OutageLog(lambda: "the server"))


def fail(breaker: Breaker, time: Clock, seconds: float = 2 * SLOW) -> None:
    """Make a call that fails after some seconds."""
    began = breaker.begin()
    time.now += seconds
    breaker.failed(began, "The server did not answer.")


def is_refused(breaker: Breaker, *, may_wait: bool = False) -> bool:
    """Return whether a call that begins now is answered at once; it does not end."""
    try:
        breaker.begin(may_wait=may_wait)
    except StorageUnavailable:
        return True
    return False


def test_nothing_is_refused_while_the_server_answers(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.begin()
        breaker.answered()
    assert not is_refused(breaker)


def test_a_slow_failure_lets_one_call_try_at_once(breaker: Breaker, time: Clock) -> None:
    """The failure may have had another cause, and only the next call tells."""
    fail(breaker, time)
    assert breaker.is_open
    assert not is_refused(breaker)
    assert is_refused(breaker)
    assert is_refused(breaker)


def test_then_one_call_tries_after_each_interval(breaker: Breaker, time: Clock) -> None:
    """The interval begins when the last call has failed, however long that has waited."""
    fail(breaker, time)
    for _ in range(3):
        fail(breaker, time, seconds=2 * RETRY)
        time.now += RETRY - 0.1
        assert is_refused(breaker)
        time.now += 0.1


def test_no_other_call_tries_while_one_does(breaker: Breaker, time: Clock) -> None:
    """Its client may have a longer timeout than the interval, and would cost a thread in each."""
    fail(breaker, time)
    began = breaker.begin()
    time.now += 4 * RETRY
    assert is_refused(breaker)
    breaker.failed(began, "The server did not answer.")
    time.now += RETRY - 0.1
    assert is_refused(breaker)
    time.now += 0.1
    assert not is_refused(breaker)


def test_a_call_that_never_ends_is_followed_by_another_one(breaker: Breaker, time: Clock) -> None:
    """Its client has no timeout, or its thread has died: nobody would ever try again. The more of
    them there are, the later comes the next one, so that threads are left for other pages."""
    fail(breaker, time)
    began = time.now
    attempts = []
    while time.now < began + 3600:
        if not is_refused(breaker):
            attempts.append(round(time.now - began))
        time.now += 1
    assert attempts == [0, PATIENCE, 3 * PATIENCE, 7 * PATIENCE, 15 * PATIENCE, 31 * PATIENCE]


@pytest.mark.parametrize("may_wait", [False, True])
def test_a_call_that_ends_in_another_way_is_followed_after_the_interval(
    breaker: Breaker, time: Clock, may_wait: bool
) -> None:
    """Its task was cancelled, or it has waited for a lock or a connection of the pool."""
    fail(breaker, time)
    breaker.ended(breaker.begin(may_wait=may_wait))
    assert is_refused(breaker, may_wait=may_wait)
    time.now += RETRY
    assert not is_refused(breaker, may_wait=may_wait)
    assert is_refused(breaker, may_wait=may_wait)


def test_a_forked_process_does_not_wait_for_a_call_of_its_parent(
    breaker: Breaker, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no such thread."""
    fail(breaker, time)
    breaker.begin()
    assert is_refused(breaker)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not is_refused(breaker)
    assert is_refused(breaker)


def test_an_answer_closes_it(breaker: Breaker, time: Clock) -> None:
    fail(breaker, time)
    breaker.begin()
    breaker.answered()
    assert not breaker.is_open
    assert not any(is_refused(breaker) for _ in range(3))


def test_a_quick_failure_closes_it(breaker: Breaker, time: Clock) -> None:
    """A server that has gone refuses connections, which costs no time: each request asks it."""
    fail(breaker, time)
    fail(breaker, time, seconds=SLOW / 2)
    assert not any(is_refused(breaker) for _ in range(3))


def test_quick_failures_do_not_open_it(breaker: Breaker, time: Clock) -> None:
    for _ in range(10):
        fail(breaker, time, seconds=SLOW / 2)
    assert not breaker.is_open


def test_it_stays_closed_if_another_call_was_answered_meanwhile(
    breaker: Breaker, time: Clock
) -> None:
    """The call has waited for something else, such as a row that is locked."""
    began = breaker.begin()
    time.now += SLOW
    breaker.begin()
    breaker.answered()
    time.now += SLOW
    breaker.failed(began, "The server did not answer.")
    assert not breaker.is_open


def test_an_answer_of_before_does_not_keep_it_closed(breaker: Breaker, time: Clock) -> None:
    breaker.begin()
    breaker.answered()
    time.now += SLOW
    fail(breaker, time)
    assert breaker.is_open


def test_calls_that_began_before_it_opened_do_not_prolong_it(breaker: Breaker, time: Clock) -> None:
    """Many requests wait when a server begins to hang. They fail one after the other, and the last
    one must not put off the first attempt."""
    began = [breaker.begin() for _ in range(5)]
    for each in began:
        time.now += 1
        breaker.failed(each, "The server did not answer.")
    assert not is_refused(breaker)
    assert is_refused(breaker)


def test_a_call_that_may_wait_for_a_lock_keeps_no_other_from_trying(
    breaker: Breaker, time: Clock
) -> None:
    """It may take as long as the lock, and the server may answer everybody else."""
    fail(breaker, time)
    assert not is_refused(breaker, may_wait=True)
    assert not is_refused(breaker)
    assert is_refused(breaker)
    assert is_refused(breaker, may_wait=True)


def test_one_call_that_may_wait_for_a_lock_tries_at_a_time(breaker: Breaker) -> None:
    """The server may hang, and the site may do nothing but create sessions."""
    breaker.failed(breaker.begin() - 1, "The server did not answer.")
    assert not is_refused(breaker, may_wait=True)
    assert is_refused(breaker, may_wait=True)


def test_who_only_asks_whether_a_call_may_pass_is_not_counted(
    breaker: Breaker, time: Clock
) -> None:
    """It waits for a connection of the pool, and has asked before."""
    fail(breaker, time)
    breaker.check()
    assert not is_refused(breaker)
    with pytest.raises(StorageUnavailable):
        breaker.check()


@pytest.fixture
def nodes() -> list[Breaker]:
    return [Breaker(OutageLog(lambda: "a node")) for _ in range(3)]


def test_a_call_of_several_nodes_tries_each(nodes: list[Breaker], time: Clock) -> None:
    """One call at a time does, of one node or of all, and the answer is that of all nodes."""
    _, hung, other = nodes
    for each in hung, other:
        fail(each, time)
    first, second = (JointBreaker(nodes, OutageLog(lambda: "all")) for _ in range(2))
    began = first.begin()
    assert is_refused(second)
    assert is_refused(hung)
    first.failed(began, "Nobody knows which of them.")
    assert is_refused(hung)
    time.now += RETRY
    assert not is_refused(other)
    assert is_refused(second)
    # That the call of all was refused has not used up the turn of one.
    assert not is_refused(hung)
    time.now += PATIENCE
    second.begin()
    second.answered()
    assert not any(each.is_open for each in nodes)


def test_zero_turns_it_off(breaker: Breaker, time: Clock) -> None:
    with override_settings(SESSIONSTORES={"STORE_RETRY": 0}):
        for _ in range(3):
            fail(breaker, time)
        assert not any(is_refused(breaker) for _ in range(3))


def test_turned_off_while_it_is_open(breaker: Breaker, time: Clock) -> None:
    fail(breaker, time)
    with override_settings(SESSIONSTORES={"STORE_RETRY": 0}):
        assert not any(is_refused(breaker) for _ in range(3))


def test_who_is_refused_learns_why_and_which_setting_it_was(breaker: Breaker, time: Clock) -> None:
    fail(breaker, time)
    breaker.begin()
    expected = (
        r"^The server did not answer\. An earlier request .* did not wait\. The server is tried "
        r"again within 5 s, see SESSIONSTORES\['STORE_RETRY'\]\.$"
    )
    with pytest.raises(StorageUnavailable, match=expected) as refused:
        breaker.begin()
    assert refused.value.__cause__ is None

"""Charts have a place for each thing that they count, and none falls out of them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.core.lifetime import LATEST, utc_datetime
from django_sessionstores.operations.charts import HEIGHT, ROW_WIDTH, columns, position, rows

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@given(st.lists(st.integers(-(10**9), 10**9), max_size=30))
def test_all_moments_are_in_a_column(seconds: list[int]) -> None:
    """For any span of time, moments before now are before the mark and the others are behind it."""
    moments = [NOW + timedelta(seconds=each) for each in seconds]
    chart = columns(Counter(moments), NOW)
    assert len(chart.columns) <= 32
    for column in chart.columns:
        within = [each for each in moments if column.begin < each <= column.end]
        if not moments.count(column.begin) and not moments.count(column.end):
            assert column.number == len(within)
    assert sum(column.number for column in chart.columns) == len(moments)
    before = sum(each.number for each in chart.columns if each.end <= NOW)
    assert before == sum(each <= NOW for each in moments)


@pytest.mark.parametrize("others", [0, 1, 1000])
def test_a_session_that_expires_as_late_as_possible(others: int) -> None:
    """Its column would end after the year 9999, which Python cannot say."""
    latest = utc_datetime(LATEST)
    for hours in range(0, 24 * 365, 500):
        now = NOW + timedelta(hours=hours)
        chart = columns({now: others, latest: 1}, now)
        assert chart.columns[-1].number == 1
        assert sum(each.number for each in chart.columns) == 1 + others
        assert all(each.begin <= each.end <= latest for each in chart.columns)


def test_heights() -> None:
    """Heights are proportional, but a single session among many is visible, too."""
    hour = timedelta(hours=1)
    chart = columns({NOW - hour / 2: 1000, NOW - 3 * hour / 2: 1}, NOW)
    assert [(each.number, each.height) for each in chart.columns] == [(1, "2"), (1000, f"{HEIGHT}")]


def test_rows() -> None:
    """The longest fills the width; the shortest can be seen; none has no bar."""
    found = rows([("a", 1000), ("b", 500), ("c", 1), ("d", 0)])
    assert [each.width for each in found] == [f"{ROW_WIDTH}", f"{ROW_WIDTH // 2}", "1", "0"]
    assert rows([]) == []


@pytest.mark.parametrize(("number", "share"), [(0, 0), (1, 1)])
def test_a_single_session_has_the_full_size_and_none_has_no_bar(number: int, share: int) -> None:
    (row,), chart = rows([("a", number)]), columns({NOW: number}, NOW)
    assert row.width == f"{share * ROW_WIDTH}"
    (column,) = chart.columns
    assert (column.height, chart.most) == (f"{share * HEIGHT}", 1)


@pytest.mark.parametrize(("hours", "place"), [(0, "0"), (5, "50"), (10, "100"), (99, "100")])
def test_positions_on_a_line(hours: int, place: str) -> None:
    """The line goes from the first moment to the last."""
    hour = timedelta(hours=1)
    assert position(NOW + hours * hour, NOW, NOW + 10 * hour, 100) == place
    assert position(NOW, NOW, NOW, 100) == "0"

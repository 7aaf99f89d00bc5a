"""When schedules tick: against years looked at minute by minute, and at the edges by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InvalidInput
from steelyard.schedules.hours import Hours, parse_hours
from steelyard.schedules.rules import (
    PERIOD_S_MAX,
    Rule,
    check_period,
    next_tick,
    next_ticks,
    parse_cron,
    spread_of,
)
from tests.schedule_kit import EVERY, ZONES, Pattern, ticks_of, utc

PATTERNS = (
    Pattern(frozenset({0}), frozenset({2})),  # nightly proof
    Pattern(frozenset({0}), frozenset({3}), frozenset({1})),  # monthly rebuild
    Pattern(frozenset({30}), frozenset({1, 2})),
    Pattern(frozenset({0}), frozenset({0})),
    Pattern(frozenset({0}), frozenset(range(8, 21))),  # business hours
    Pattern(frozenset({0}), frozenset(range(0, 24, 4))),
    Pattern(frozenset({0, 15, 30, 45}), frozenset({1, 2, 3}), weekdays=frozenset({0})),
    Pattern(frozenset({45}), frozenset({23}), frozenset({13}), weekdays=frozenset({5})),
    Pattern(frozenset({15}), months=frozenset({3, 4, 10})),
    Pattern(frozenset({0, 30})),
)


def rule_for(zone: str, cron: str | None = None, hours: str | None = None, **rest: int) -> Rule:
    """A rule from texts."""
    parsed = None if cron is None else parse_cron(cron)
    within = None if hours is None else parse_hours(hours)
    return Rule(ZoneInfo(zone), parsed, hours=within, **rest)


def ticks_between(rule: Rule, start: datetime, end: datetime) -> list[datetime]:
    """All ticks, found one from the other."""
    found: list[datetime] = []
    tick = next_tick(rule, start)
    while tick is not None and tick < end:
        found.append(tick)
        tick = next_tick(rule, tick)
    return found


@pytest.mark.parametrize("zone", ["Europe/London", "Australia/Lord_Howe"])
def test_in_a_year_every_tick_is_found_once(zone: str) -> None:
    check_years(zone, utc(2026, 1, 1), utc(2027, 1, 1), PATTERNS[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_in_ten_years_every_tick_is_found_once(zone: str) -> None:
    check_years(zone, utc(2026, 1, 1), utc(2036, 1, 1), PATTERNS)


def check_years(zone: str, start: datetime, end: datetime, patterns: Sequence[Pattern]) -> None:
    expected = ticks_of(patterns, zone, start, end, step_min=15)
    for pattern, ticks in expected.items():
        assert ticks_between(rule_for(zone, pattern.cron), start, end) == ticks, pattern.cron
        assert len(ticks) == len(set(ticks)) > 0


@given(
    st.builds(
        Pattern,
        st.frozensets(st.integers(0, 59), min_size=1, max_size=4) | st.just(EVERY),
        st.frozensets(st.integers(0, 23), min_size=1, max_size=4) | st.just(EVERY),
        days=st.just(EVERY) | st.frozensets(st.integers(1, 28), min_size=1, max_size=9),
        weekdays=st.just(EVERY) | st.frozensets(st.integers(0, 6), min_size=1, max_size=3),
    ),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_the_next_tick_is_the_first_later_moment_that_fits(
    pattern: Pattern, zone: str, after: datetime
) -> None:
    tick = next_tick(rule_for(zone, pattern.cron), after)
    assert tick is not None
    assert tick > after
    # Looked at from a day before, so that times the wall shows twice are known to be shown the second time.
    minute = after.replace(second=0, microsecond=0)
    end = min(tick, minute + timedelta(days=2)) + timedelta(minutes=1)
    seen = ticks_of([pattern], zone, minute - timedelta(days=1), end)[pattern]
    assert [one for one in seen if one > after] == ([tick] if end > tick else [])


@given(
    st.sampled_from(ZONES),
    st.integers(60, 200_000),
    st.sampled_from(["08:00-20:00", "mon-fri 08:00-17:30", "sat,sun 22:00-03:00", None]),
    st.text(max_size=20),
    st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_a_period_ticks_later_in_step_and_within_the_hours(
    zone: str, period_s: int, hours: str | None, name: str, after: datetime
) -> None:
    spread_s = spread_of(period_s, "acme", name)
    rule = rule_for(zone, hours=hours, period_s=period_s, spread_s=spread_s)
    tick = next_tick(rule, after)
    if tick is None:
        assert hours is not None  # a period as long as a day or a week may never fall within them
        return
    assert tick > after
    assert (tick.timestamp() - spread_s) % period_s == 0
    if rule.hours is not None:
        assert rule.hours.hold(tick.astimezone(rule.zone).replace(tzinfo=None))
    earlier = tick - timedelta(seconds=period_s)
    for _ in range(50):
        if earlier <= after:
            return
        assert rule.hours is not None
        assert not rule.hours.hold(earlier.astimezone(rule.zone).replace(tzinfo=None))
        earlier -= timedelta(seconds=period_s)


def told(rule: Rule, after: datetime, count: int) -> list[str]:
    """Ticks as the zone's wall shows them."""
    ticks = next_ticks(rule, after, count)
    return [tick.astimezone(rule.zone).strftime("%d %H:%M%z") for tick in ticks]


@pytest.mark.parametrize(
    ("zone", "cron", "after", "expected"),
    [
        # 01:00 to 02:00 does not exist on 29 March: once, at the end of the gap.
        ("Europe/London", "30 1 * * *", utc(2026, 3, 28, 12), ["29 02:00+0100", "30 01:30+0100"]),
        ("Europe/London", "0,30 1 * * *", utc(2026, 3, 29), ["29 02:00+0100", "30 01:00+0100"]),
        ("Europe/London", "30 1,2 * * *", utc(2026, 3, 29), ["29 02:00+0100", "29 02:30+0100"]),
        # 01:00 to 02:00 is there twice on 25 October: only the first time, for every hour both times.
        ("Europe/London", "30 1 * * *", utc(2026, 10, 24, 12), ["25 01:30+0100", "26 01:30+0000"]),
        ("Europe/London", "30 1 * * *", utc(2026, 10, 25, 1, 5), ["26 01:30+0000"]),
        ("Europe/London", "30 * * * *", utc(2026, 10, 25), ["25 01:30+0100", "25 01:30+0000"]),
        # Half an hour is missing, and is there twice.
        ("Australia/Lord_Howe", "15 2 * * *", utc(2026, 10, 3), ["04 02:30+1100", "05 02:15+1100"]),
        ("Australia/Lord_Howe", "45 1 * * *", utc(2026, 4, 4), ["05 01:45+1100", "06 01:45+1030"]),
        # The day begins at 01:00.
        ("America/Santiago", "0 0 * * *", utc(2026, 9, 5, 12), ["06 01:00-0300", "07 00:00-0300"]),
        ("Africa/Lusaka", "0 8-20 * * *", utc(2026, 5, 1, 17), ["01 20:00+0200", "02 08:00+0200"]),
    ],
)
def test_clocks_that_are_put_forward_or_back(
    zone: str, cron: str, after: datetime, expected: list[str]
) -> None:
    assert told(rule_for(zone, cron), after, len(expected)) == expected


def test_hours_include_both_ends_and_leave_out_other_days() -> None:
    friday = utc(2026, 4, 3, 17, 30)
    rule = rule_for("Africa/Lusaka", "*/30 * * * *", "mon-fri 08:00-20:00")
    assert told(rule, friday, 3) == ["03 20:00+0200", "06 08:00+0200", "06 08:30+0200"]


def test_hours_over_midnight_belong_to_the_day_they_begin_on() -> None:
    rule = rule_for("UTC", "0 * * * *", "fri 22:00-01:00")
    friday = utc(2026, 4, 3)
    assert told(rule, friday, 5)[1:] == [
        "03 23:00+0000",
        "04 00:00+0000",
        "04 01:00+0000",
        "10 22:00+0000",
    ]


def test_a_time_that_the_wall_leaves_out_is_within_hours_that_would_hold_it() -> None:
    rule = rule_for("Europe/London", "30 1 * * *", "01:00-01:45")
    assert told(rule, utc(2026, 3, 28, 12), 1) == ["29 02:00+0100"]


@given(
    st.builds(Hours, st.times(), st.times(), st.frozensets(st.integers(0, 6), min_size=1)),
    st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)),  # noqa: DTZ001
)
def test_hours_open_next_at_the_first_minute_they_hold_after_one_they_do_not(
    hours: Hours, wall: datetime
) -> None:
    hours = Hours(_whole(hours.first), _whole(hours.last), hours.days)
    opening = hours.next_opening(wall)
    assert wall < opening <= wall + timedelta(days=8)
    assert hours.hold(opening)
    if not hours.hold(wall):
        between = [wall + (opening - wall) * part / 20 for part in range(20)]
        assert not any(map(hours.hold, between))


def _whole(minute: time) -> time:
    return minute.replace(second=0, microsecond=0)


def test_what_never_ticks_is_not_searched_for_ever() -> None:
    assert next_tick(rule_for("UTC", "0 3 * * *", "08:00-20:00"), utc(2026, 1, 1)) is None
    assert next_tick(rule_for("UTC", "0 0 * 2 MON#5"), utc(2030, 1, 1)) is None  # 2044


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "0 0 31 2 *", "a b c d e", "@reboot", "0 0 * * 8", "*/0 * * * *",
     "1-0 * * * *", "٣ * * * *", "0 " + "1," * 100 + "1 * * *"],
)  # fmt: skip
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_cron(text)
    assert refused.value.fields() == {"param": "cron"}


@pytest.mark.parametrize(
    "text",
    ["", "8-20", "8:00-20:00", "08:00-24:00", "08:00-08:00", "mo 08:00-20:00", "mon-xyz 08:00-20:00",
     "mon, 08:00-20:00", "- 08:00-20:00", "29:00-20:00", "08:00-20:00 mon"],
)  # fmt: skip
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_hours(text)
    assert refused.value.fields() == {"param": "hours"}


def test_a_period_has_bounds() -> None:
    check_period(60)
    check_period(PERIOD_S_MAX)
    for period_s in (59, 0, -60, PERIOD_S_MAX + 1):
        with pytest.raises(InvalidInput):
            check_period(period_s)


def test_names_stand_for_expressions() -> None:
    assert parse_cron(" @Daily ") == "0 0 * * *"
    assert parse_cron("0  2 * *\tmon-fri") == "0 2 * * MON-FRI"


def test_periods_of_many_names_are_spread_over_the_period() -> None:
    spread = [spread_of(3600, "acme", f"schedule-{i}") for i in range(2000)]
    assert all(0 <= one < 3600 for one in spread)
    per_tenth = [sum(one // 360 == tenth for one in spread) for tenth in range(10)]
    assert min(per_tenth) > 120
    assert spread == [spread_of(3600, "acme", f"schedule-{i}") for i in range(2000)]

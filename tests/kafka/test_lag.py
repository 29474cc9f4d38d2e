"""Messages that wait and are not read."""

from scicat_dagster.kafka.lag import PATIENCE, CaughtUp, LagWatch

LONG = PATIENCE.total_seconds()


def test_a_lag_that_does_not_get_smaller_is_stuck_after_a_while() -> None:
    watch = LagWatch()

    assert watch.stuck({"odin": 5, "loki": 0}, 0.0) == {}
    assert watch.stuck({"odin": 7, "loki": 0}, LONG - 1) == {}
    assert watch.stuck({"odin": 7, "loki": 3}, LONG) == {"odin": 7}
    assert watch.stuck({"odin": 7, "loki": 3}, 2 * LONG) == {"odin": 7, "loki": 3}


def test_a_lag_that_gets_smaller_is_not_stuck() -> None:
    watch = LagWatch()

    for number in range(20):
        assert watch.stuck({"odin": 100 - number}, number * LONG / 2) == {}


def test_a_lag_that_was_read_to_its_end_begins_anew() -> None:
    watch = LagWatch()

    assert watch.stuck({"odin": 5}, 0.0) == {}
    assert watch.stuck({"odin": 0}, 2 * LONG) == {}
    assert watch.stuck({"odin": 5}, 3 * LONG - 1) == {}


def test_what_was_read_counts_when_its_cursor_is_stored() -> None:
    caught_up = CaughtUp()
    caught_up.begin(None)
    caught_up.end("one", {"odin": 0}, now=100.0)
    assert not caught_up.was_within(60.0, now=101.0)

    caught_up.begin("one")

    assert caught_up.was_within(60.0, now=160.0)
    assert not caught_up.was_within(60.0, now=161.0)


def test_a_poll_that_left_messages_or_was_not_stored_does_not_count() -> None:
    caught_up = CaughtUp()
    caught_up.end("one", {"odin": 0, "loki": 2}, now=100.0)
    caught_up.begin("one")
    caught_up.end("two", {"odin": 0, "loki": 0}, now=101.0)
    caught_up.begin("one")

    assert not caught_up.was_within(60.0, now=102.0)

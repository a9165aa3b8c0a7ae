import pytest

from tfadv import units


@pytest.mark.parametrize(
    "seconds, of, text",
    [
        (0, "", "0 seconds"),
        (3.3e-5, "", "33 microseconds"),
        (0.01629, "", "16.29 milliseconds"),
        (1, "", "1 second"),
        (59.5, "", "59.5 seconds"),
        (92.04, "", "1.534 minutes"),
        (48.88 * 3600, "", "48.88 hours"),
        (6.25 * 86400, "", "6.25 days"),
        (128 * 48.88 * 3600, "device-", "6,257 device-hours"),
        (12 * 60, "device-", "12 device-minutes"),
    ],
)
def test_times_stand_in_the_unit_that_a_person_reads(seconds, of, text):
    assert units.duration(seconds, of) == text


@pytest.mark.parametrize(
    "seconds, words, short",
    [
        (0.4, "0 s", "0 s"),
        (99.4, "1 min 39 s", "99 s"),
        (400, "6 min 40 s", "7 min"),
        (5969, "1 h 39 min", "99 min"),
        (7560, "2 h 6 min", "2.1 h"),
        (749_040, "208 h 4 min", "208 h"),
    ],
)
def test_times_of_estimates(seconds, words, short):
    assert (units.in_words(seconds), units.short(seconds)) == (words, short)


def test_one_thing_is_singular():
    assert units.count(1, "worker") == "1 worker"
    assert (units.count(0, "update"), units.count(4096, "image")) == ("0 updates", "4,096 images")


def test_the_first_part_does_not_count_in_the_time_left():
    now = 1000.0  # in which the first part took 900 s
    left = units.TimeLeft(lambda: now)
    assert left(1, 10) is None and not left.has_begun
    left.begin(1)
    assert left(1, 10) is None and left.has_begun
    now = 1020.0
    assert left(3, 10) == pytest.approx(70)
    assert left(10, 10) is None


@pytest.mark.parametrize(
    "number, text",
    [(0.1234567, "0.1235"), (999.9, "999.9"), (1234.5, "1,234"), (5.794e6, "5,794,000")],
)
def test_large_numbers_have_no_exponent(number, text):
    assert units.rounded(number) == text

import pytest

from tfadv.config import units


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
    "number, text",
    [(0.1234567, "0.1235"), (999.9, "999.9"), (1234.5, "1,234"), (5.794e6, "5,794,000")],
)
def test_large_numbers_have_no_exponent(number, text):
    assert units.rounded(number) == text

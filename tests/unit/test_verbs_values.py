"""The values that a text can have."""

import pytest

from reborn._verbs import values


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_text_that_cannot_be_a_path(text):
    with pytest.raises(ValueError, match="is not a valid path"):
        values.path(text)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan"])
def test_text_that_is_no_number_of_seconds(text):
    with pytest.raises(ValueError, match="is not a number of seconds above 0"):
        values.seconds(text)


@pytest.mark.parametrize("text", ["inf", "1e300", "1000000001"])
def test_text_that_is_no_time_to_wait_for(text):
    with pytest.raises(ValueError, match="is more than 1e9 seconds, which are 31 years"):
        values.seconds(text)


@pytest.mark.parametrize(("text", "number"), [("1", 1.0), ("0.5", 0.5), ("1e9", 1e9)])
def test_text_that_is_a_number_of_seconds(text, number):
    assert values.seconds(text) == number

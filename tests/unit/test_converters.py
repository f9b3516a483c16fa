"""Limits as people write them."""

import resource

import pytest

from reborn._command import converters

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("values", "soft", "hard"),
    [
        ("0", 0, 0),
        ("10", 10, 10),
        ("10:20", 10, 20),
        ("1K:2M", 1024, 2 * 1024**2),
        ("1g", 1024**3, 1024**3),
        ("unlimited", UNLIMITED, UNLIMITED),
        ("5:infinity", 5, UNLIMITED),
    ],
)
def test_values(values, soft, hard):
    assert converters.parse_limit("nofile", values) == (resource.RLIMIT_NOFILE, soft, hard)


@pytest.mark.parametrize(
    "values", ["", ":", "1:", ":1", "-1", "x", "K", "1.5", "2:1", "9" * 30, "٣"]
)
def test_values_that_are_none(values):
    with pytest.raises(ValueError, match="limit"):
        converters.parse_limit("nofile", values)


@pytest.mark.parametrize("name", ["", "x", "RLIMIT_CORE", "core core"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"is not a limit; the limits are .*nofile"):
        converters.parse_limit(name, "1")


def test_names_are_those_of_the_system():
    assert {"core", "nofile", "as", "cpu"} <= set(converters.limits())


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("4K", 4096), ("10m", 10 * 1024**2), ("50MB", 50 * 1024**2), ("1GiB", 2**30)],
)
def test_size_of_a_log(text, size):
    assert converters.size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4095", "1K", "M", "-1M", "1.5M", "10 M", "10X", "٣M"])
def test_no_size_of_a_log(text):
    with pytest.raises(ValueError, match="is not a size of a log such as 512K or 10M, at least 4K"):
        converters.size(text)

"""A listening socket by name: what is given to `DaemonContext.listen`."""

import os
from pathlib import Path

import pytest

from reborn._upgrade import listening

ADDRESSES = [("127.0.0.1", 0), ("", 65535), "/run/app.sock", Path("app.sock"), "@app"]
REFUSED = {
    (
        "127.0.0.1",
        0,
    ): "a host and a port, or a path, not 0 (int); the name comes first",
    (
        "web",
        8080,
    ): "a host and a port, or a path, not 8080 (int); the name comes first",
    (
        "web",
        ("", 80, 0, 0),
    ): "a host and a port, or a path, not ('', 80, 0, 0) (tuple)",
    ("web", ("", "80")): "a host and a port, or a path, not ('', '80') (tuple)",
    ("web", ("", True)): "a host and a port, or a path, not ('', True) (tuple)",
    ("web", b"/run"): "a host and a port, or a path, not b'/run' (bytes)",
    ("web", ("", -1)): "must be given a port from 0 to 65535, not -1",
    ("web", ("", 65536)): "must be given a port from 0 to 65535, not 65536",
    (("", 80), "web"): "listen() must be given a name first, not ('', 80) (tuple)",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_is_taken_as_it_is(address):
    expected = address if isinstance(address, tuple) else os.fspath(address)
    assert listening.checked("web", address) == expected


def test_pair_from_a_configuration_file_is_taken():
    assert listening.checked("web", ["::1", 80]) == ("::1", 80)


@pytest.mark.parametrize("arguments", REFUSED, ids=str)
def test_what_is_no_address_is_refused_in_one_line(arguments):
    with pytest.raises((TypeError, ValueError)) as caught:
        listening.checked(*arguments)
    assert REFUSED[arguments] in str(caught.value)
    assert "\n" not in str(caught.value)

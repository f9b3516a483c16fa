"""Unit tests make no process, so nobody has to look for what they left running."""

import pytest


@pytest.fixture(autouse=True)
def nothing_left_running():
    """Take the place of the census around each test."""

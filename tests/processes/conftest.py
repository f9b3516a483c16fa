"""Fixtures of more than one file about processes."""

import pytest
from clients import Crowd


@pytest.fixture
def crowd(sandbox):
    crowd = Crowd(sandbox)
    yield crowd
    crowd.stop()

"""What tests of the stages share."""

import pytest


@pytest.fixture
def single(make_spec):
    """Return a configuration of the single network."""
    return make_spec().alone()

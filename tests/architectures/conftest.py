"""The schemes every test of this folder runs over."""

import pytest
from architectures_support import SCHEMES


@pytest.fixture(params=list(SCHEMES))
def label(request: pytest.FixtureRequest) -> str:
    return str(request.param)

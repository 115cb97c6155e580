"""A unit test speaks to nobody."""

from collections.abc import Iterator

import pytest
import pytest_socket
from hypothesis import HealthCheck, settings

# A busy machine is slow, and that is no finding.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()

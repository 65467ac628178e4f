"""Fixtures of the tests of downloads."""

from collections.abc import Iterator

import pytest

from tests.local_site import Site


@pytest.fixture
def site() -> Iterator[Site]:
    started = Site()
    yield started
    started.server.shutdown()
    started.server.server_close()

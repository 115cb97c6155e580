"""A pod for the standard formats: sqlite and a Redis of its own, as `make run` has it."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.web import openapi
from service.web.payload import Payload
from tests.pod import Pod


@pytest.fixture(scope="package")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    directory = tmp_path_factory.mktemp("standards")
    with Pod(directory, DATABASE_URL=f"sqlite:///{directory}/shop.sqlite3") as running:
        yield running


@pytest.fixture(scope="session")
def description() -> dict[str, Any]:
    return openapi.document(Payload("MINGUS", "1.0.0", "production", debug=False))

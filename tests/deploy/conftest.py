"""What the tests of the deployment files share."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import Exposition
from tests.pod import Pod, eventually


@pytest.fixture(scope="session")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposition]:
    """The labels of each series a real pod shows to a trusted Prometheus, by name."""
    directory = tmp_path_factory.mktemp("pod")
    database = f"sqlite:///{directory}/database.sqlite3"
    with Pod(directory, DATABASE_URL=database, WEB_CONCURRENCY="1").start() as pod:
        pod.get("/health")

        def shown() -> Exposition:
            found: Exposition = {}
            text = pod.get("/metrics", health=True).body.decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found.setdefault(sample.name, []).append(dict(sample.labels))
            # The pool's figures come with the first beat of the worker.
            return found if "db_connection_pool_size" in found else {}

        yield eventually(shown, "every series")

from collections.abc import Iterator

import pytest

from tests.distributed.processes import Pair


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two processes that run jobs together: ``pair.run(job, *arguments)`` gives the results of both."""
    both = Pair()
    yield both
    both.end()

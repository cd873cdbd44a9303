"""A PostgreSQL of the distribution, started for the tests that want one and ended after them."""

import os
from collections.abc import Iterator

import pytest

from tests.harness.deployed.postgresql import postgresql_programs, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Give the URL of one."""
    programs = postgresql_programs()
    if programs is None:
        reason = "PostgreSQL is not installed (initdb is not found); on Debian: apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with running_postgresql(programs) as url:
        yield url

"""Flower counts its strategies as part of a run."""

import pytest

from fedquit.strategies.flower_internals import become_server_task


@pytest.fixture(autouse=True)
def in_a_task() -> None:
    become_server_task(1)

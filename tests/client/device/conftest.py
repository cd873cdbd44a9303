"""A kit with twelve samples of three classes."""

from pathlib import Path

import pytest

from fedquit.client.kit import Kit
from tests.client.device.kit_messages import make_kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "kit")

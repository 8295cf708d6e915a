"""What the contracts of all upstreams share."""

import pytest

from app.adapters.wire import ear


@pytest.fixture(params=["alone", "in a crowd"])
def company(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream is heard by itself, and as in a crowd, where it is not waited for."""
    if request.param == "in a crowd":
        monkeypatch.setattr(ear, "CROWD", 1)

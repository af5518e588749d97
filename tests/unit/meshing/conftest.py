"""Six views round the object, shared by the room's tests."""

from __future__ import annotations

import pytest
import torch

from engine.scene.cameras import Cameras, orbit_cameras


@pytest.fixture(scope="session")
def cameras() -> Cameras:
    azimuth_deg = torch.tensor([0.0, 60, 120, 180, 240, 300])
    elevation_deg = torch.tensor([0.0, 30, -15, 20, 60, 10])
    return orbit_cameras(azimuth_deg, elevation_deg, torch.full((6,), 3.0), torch.full((6,), 40.0))

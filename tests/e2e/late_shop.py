"""A service of a team's own that takes its time to start: until the file of SHOP_OPENS is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.e2e.shop import service

while not Path(os.environ["SHOP_OPENS"]).exists():
    time.sleep(0.01)

__all__ = ["service"]

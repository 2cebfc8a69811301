"""How everything is set in a simulation: as by default, but for sweeps, which are more frequent to keep it short."""

from datetime import timedelta
from typing import Final

FENCE_WAIT: Final = timedelta(seconds=15)
DEFAULT_TIMEOUT: Final = timedelta(seconds=20)
SWEEP_INTERVAL: Final = timedelta(seconds=10)
OVERDUE_AFTER: Final = timedelta(seconds=15)
TICK: Final = 3.0
SECOND_LOOK: Final = 3.0
BUS_PATIENCE: Final = 2.0
LOOK_INTERVAL: Final = 8.0
DISCOVERY_INTERVAL: Final = 15.0

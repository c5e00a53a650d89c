"""A telemetry-processor as its own process: `python -m tests.kit.processor HOST PORT DATABASE`."""

import sys
from pathlib import Path

from tests.kit.processor.server import serve

serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

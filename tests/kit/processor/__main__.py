"""A telemetry-processor as a process of its own: `python -m tests.kit.processor PORT DATABASE`."""

import sys
from pathlib import Path

from tests.kit.processor.server import serve

serve("127.0.0.1", int(sys.argv[1]), Path(sys.argv[2]))

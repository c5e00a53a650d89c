"""DLRover's own local master, with a witness; run by an interpreter that has DLRover.

    python -c "$(cat dlrover_main.py)" STORED PORT grpc|http

What runs is what `python -m dlrover.python.master.main --platform local` runs. A master tells
nobody what it keeps, so every report is written to the file STORED, a JSON object a line, once it
is kept. Without arguments it only finds out whether everything is there. Nothing of lens-ship is
imported.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

_FIRST = (0, 5)  # before, a local master says yes to reports and keeps none


def play(stored: str = "", port: str = "", service: str = "") -> int:
    """Be the master; never returns while it runs. Without arguments: find out if that could be."""
    from dlrover.python.master import main as master
    from dlrover.python.master.diagnosis import diagnosis_data_manager

    if not stored:
        return 0
    manager = diagnosis_data_manager.DiagnosisDataManager
    keep = manager.store_data
    witness = open(stored, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for ever

    def store_data(self: Any, datum: Any) -> Any:
        kept = keep(self, datum)
        fields = {name.lstrip("_"): value for name, value in vars(datum).items()}
        witness.write(json.dumps(fields, default=str) + "\n")
        return kept

    manager.store_data = store_data
    sys.argv = ["master", "--platform", "local", "--job_name", "demo", "--node_num", "1"]
    sys.argv += ["--port", port, "--service_type", service]
    code: int = master.main()
    return code


def is_old() -> str:
    """What is wrong with its version, or ""."""
    found = version("dlrover")
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return f"DLRover {found} is too old: 0.5.0 or later" if numbers < _FIRST else ""


if __name__ == "__main__":
    sys.exit(is_old() or play(*sys.argv[1:4]))

"""A notebook's kernel, as Jupyter runs one; run by a Python that has ipykernel.

    python notebook.py

Reads one JSON list from each line of stdin, and answers with one line of JSON:

    ["run", code]      -> what the cell has printed, by stream, with "error" for a traceback
    ["restart"]        -> the pid of the new kernel; the old one was asked to end
    ["kill"]           -> the same; the old one's process group has got SIGKILL
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

_SECONDS = 60.0


class Notebook:
    """One kernel at a time and its client."""

    def __init__(self) -> None:
        self.kernel = KernelManager(kernel_name="python3")
        self.kernel.start_kernel(stdout=sys.stderr, stderr=sys.stderr)
        self.client = self.connected()

    def connected(self) -> BlockingKernelClient:
        client = self.kernel.client()
        client.start_channels()
        client.wait_for_ready(timeout=_SECONDS)
        return client

    def run(self, code: str) -> dict[str, str]:
        """Run a cell to its end."""
        printed: dict[str, str] = defaultdict(str)

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed[content["name"]] += content["text"]
            elif message["msg_type"] == "error":
                printed["error"] += "\n".join(content["traceback"])

        self.client.execute_interactive(code, timeout=_SECONDS, output_hook=note)
        return dict(printed)

    def restart(self) -> int:
        self.client.stop_channels()
        self.kernel.restart_kernel()
        self.client = self.connected()
        return self.pid()

    def kill(self) -> int:
        os.killpg(self.pid(), signal.SIGKILL)  # the kernel leads a process group
        return self.restart()

    def pid(self) -> int:
        return int(self.run("import os; print(os.getpid())")["stdout"])


def main() -> None:
    notebook = Notebook()
    try:
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            sys.stdout.write(json.dumps(getattr(notebook, name)(*arguments)) + "\n")
            sys.stdout.flush()
    finally:
        notebook.client.stop_channels()
        notebook.kernel.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()

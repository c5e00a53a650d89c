"""The commands, one file each; every file imports its room when its command runs.

Adding one is a file and a line in `REGISTRY`.
"""

from __future__ import annotations

REGISTRY: dict[str, str] = {
    "run": "shipper.commands.run:run",
    "status": "shipper.commands.status:status",
    "config": "shipper.commands.config:config",
    "inspect": "shipper.commands.inspect:inspect",
    "tail": "shipper.commands.tail:tail",
    "plot": "shipper.commands.plot:plot",
    "audit": "shipper.commands.audit:audit",
    "dead-letter": "shipper.commands.dead_letter:dead_letter",
    "quarantine": "shipper.commands.quarantine:quarantine",
    "replay": "shipper.commands.replay:replay",
    "prepare": "shipper.commands.prepare:prepare",
    "systemd": "shipper.commands.systemd:systemd",
    "hook": "shipper.commands.hook:hook",
    "receive": "shipper.commands.receive:receive",
    "demo": "shipper.commands.demo:demo",
}

"""The commands, one file each; every file imports its room when its command runs.

Adding one is a file and a line in `REGISTRY`.
"""

from __future__ import annotations

REGISTRY: dict[str, str] = {
    "run": "shipper.commands.run:run",
    "check": "shipper.commands.check:check",
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

# What the exit codes mean: those of every command, then what 1 means for those that have it.
EXITS: dict[int, str] = {
    0: "done",
    1: "something is left to do or failed; stderr says what, and for some commands see below",
    2: "words or settings that cannot be used; every one of them is named",
    3: "the state directory is in use by another service",
    4: "the state cannot be used; the line says why and what to do",
    130: "interrupted at a question",
    141: "whoever read the output has gone (`| head`)",
}
EXITS_OF: dict[str, str] = {
    "run": "with `--once`: something is still pending; a line for each. Without: never",
    "status": "somebody has to do something; docs/monitoring.md says what counts",
    "check": "something fails, or with `--strict` a warning",
    "audit": "an account does not balance, or a folder cannot be looked into",
    "inspect": "something is wrong with one of the paths, or one is no spool",
    "tail": "there is no spool at or below the places (without `--follow`)",
    "plot": "there is nothing to draw: no such run, or no such metric",
    "dead-letter retry": "one was refused again",
    "replay": "something was left, or cannot be replayed",
    "hook status": "processes of this environment are not hooked",
    "demo": "something was lost, or a process did not start",
}

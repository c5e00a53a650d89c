"""`lens-ship replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, need_readable, one_of, settings


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--run", default="", help="Only this run.")
@click.option("--workload", default="", help="Only this workload.")
@click.option(
    "--kind",
    type=click.Choice(["step", "detection", "report"]),
    help="Only records of this kind.",
)
@click.option(
    "--sink",
    "only_sink",
    default="",
    callback=one_of("shipper.sinks"),
    help="Only to this sink.",
)
@click.option("--first-step", type=int, help="Only steps from this one on.")
@click.option("--last-step", type=int, help="Only steps up to this one.")
@click.option("--since", type=float, help="Only records from this time on, Unix seconds.")
@click.option("--until", type=float, help="Only records up to this time, Unix seconds.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--again", is_flag=True, help="Send what is delivered once more.")
@click.option(
    "--overwrite", is_flag=True, help="Send steps that a later process has written since, too."
)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Records a second at most.")
@click.option("--as-workload", default="", help="The workload of files that do not know theirs.")
@click.option("--as-pod", default="", help="The pod of files that do not know theirs.")
@settings(
    "spool",
    "pod_directories",
    "state",
    "processor_url",
    "token_file",
    "cookie_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "proxy",
    "batch_max_steps",
    "batch_max_bytes",
    "drop_non_numeric",
    "dlrover_address",
    "dlrover_protocol",
    "dlrover_client",
    "dlrover_max_age",
    "dlrover_proxy",
)
def replay(
    paths: tuple[Path, ...],
    plan_only: bool,
    rate: float | None,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Send what lies on disk: kept segments, spools and files at PATHS.

    Without PATHS: the spools below --spool, as far as they are delivered, with --again. PATHS may
    be spools from elsewhere, the older exporter's wandb_metrics.jsonl files, wandb's offline run
    folders, or folders of any of these.
    """
    from shipper.replay.command import WISHING, replay_command

    flags = {name: value for name, value in given.items() if name not in WISHING}
    config = load_config(flags, config_file, needs_spool=not paths, sends=not plan_only)
    if not paths:
        need_readable(config.spool)
    sys.exit(replay_command(paths, given, config, plan_only=plan_only, rate=rate))

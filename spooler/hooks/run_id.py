"""Run ids for what has none of its own: the same in every rank, and after a restart. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from spooler.spool.identity import job_of


def stable(environ: Mapping[str, str], prefix: str, place: str, *names: str) -> str:
    """An id made from the job and `names`; without a job from `place`, where the program writes."""
    import hashlib

    job = job_of(environ) or place
    digest = hashlib.sha1(
        "\0".join((job, *names)).encode("utf-8", "replace"), usedforsecurity=False
    )
    return f"{prefix}-{digest.hexdigest()[:8]}"

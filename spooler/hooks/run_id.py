"""Run ids for what has none of its own: the same in every rank, and after a restart. Pure."""

from __future__ import annotations

from collections.abc import Mapping

# What a scheduler keeps over ranks, restarts and requeues of a job; the first that is set counts.
_JOB = ("WORKLOAD_UID", "JOB_UID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
_UNSET = ("", "none")  # torchrun's own default


def stable(environ: Mapping[str, str], prefix: str, place: str, *names: str) -> str:
    """An id made from the job and `names`; without a job from `place`, where the program writes."""
    import hashlib

    jobs = (environ.get(name, "").strip() for name in _JOB)
    job = next((one for one in jobs if one not in _UNSET), place)
    digest = hashlib.sha1(
        "\0".join((job, *names)).encode("utf-8", "replace"), usedforsecurity=False
    )
    return f"{prefix}-{digest.hexdigest()[:8]}"

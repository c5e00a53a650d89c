"""Who wrote a spool: read from any launcher, kept through the file, trusting nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from spooler.spool import codec, identity
from spooler.spool.identity import Identity
from tests.kit import spools

KNOWN: dict[str, Any] = {"spool": "s", "created": 1.0, "pid": 7, "host": "h", "version": "0"}


def read(**environ: str) -> Identity:
    return identity.from_environ(environ, **KNOWN)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read() == Identity(**KNOWN)


def test_space_around_a_value_is_not_part_of_it() -> None:
    """A value that comes from a file, or from a Secret, ends with a line end."""
    assert read(WORKLOAD_UID=" w\n", RANK="3\n", JOB_UID="\n") == read(WORKLOAD_UID="w", RANK="3")


def test_a_long_text_is_cut_and_not_left_out() -> None:
    whole = read(WORKLOAD_UID="w" * 5000).to_map()
    assert Identity.from_map(codec.unpack(codec.pack(whole))).workload_uid == "w" * 1024


def test_every_variable_finds_its_field() -> None:
    assert read(
        WORKLOAD_UID="w",
        POD_UID="u",
        POD_NAME="p",
        POD_NAMESPACE="n",
        RANK="9",
        LOCAL_RANK="1",
        NODE_RANK="4",
        WORLD_SIZE="16",
        PRIMUS_LENS_API_BASE_URL="http://processor/api",
        PRIMUS_LENS_WANDB_API_REPORTING="false",
        PRIMUS_LENS_WANDB_SAVE_LOCAL="no",
        PRIMUS_LENS_WANDB_BATCH_SIZE="25",
        PRIMUS_LENS_WANDB_FLUSH_INTERVAL="2.5",
        NODE_ID="3",
        NODE_TYPE="chief",
        JOB_UID="j",
        DLROVER_MASTER_ADDR="m:1",
        DLROVER_MASTER_SERVICE_TYPE="http",
    ) == Identity(
        **KNOWN,
        workload_uid="w",
        pod_uid="u",
        pod_name="p",
        namespace="n",
        rank=9,
        local_rank=1,
        node_rank=4,
        world_size=16,
        api_base_url="http://processor/api",
        api_reporting=False,
        save_local=False,
        batch_size=25,
        flush_interval=2.5,
        node_id=3,
        node_type="chief",
        job_uid="j",
        master_addr="m:1",
        master_service="http",
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_NTASKS": "8"},
        {
            "OMPI_COMM_WORLD_RANK": "5",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "8",
            "GROUP_RANK": "2",
        },
        {"RANK": "5", "LOCAL_RANK": "1", "NODE_RANK": "2", "WORLD_SIZE": "8", "SLURM_PROCID": "6"},
        {
            "RANK": "5",
            "LOCAL_RANK": "1",
            "GROUP_RANK": "2",
            "WORLD_SIZE": "8",
            "SLURM_PROCID": "2",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "1",
            "SLURM_NTASKS": "4",
        },
        {  # what mpirun starts in a batch script inherits the numbers of the script
            "PMI_RANK": "5",
            "MPI_LOCALRANKID": "1",
            "PMI_SIZE": "8",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "2",
            "SLURM_NTASKS": "1",
        },
        {"RANK": "5", "LOCAL_RANK": "1", "WORKER_RANK": "2", "GROUP_RANK": "0", "WORLD_SIZE": "8"},
    ],
    ids=["slurm", "open mpi", "torchrun first", "srun torchrun", "mpirun in sbatch", "dlrover"],
)
def test_other_launchers_numbers_count_where_torchrun_s_are_not_set(
    environ: dict[str, str],
) -> None:
    who = read(**environ)
    assert (who.rank, who.local_rank, who.node_rank, who.world_size) == (5, 1, 2, 8)
    assert identity.directory_of(environ) == ("node_2", "rank_1")


@pytest.mark.promise("G2")
@pytest.mark.parametrize("value", ["", "x", "1.5", "0x1", "9" * 30, "9" * 5000, "-" + "9" * 30])
def test_a_malformed_number_counts_as_not_set(value: str) -> None:
    who = read(RANK=value, PRIMUS_LENS_WANDB_BATCH_SIZE=value, NODE_ID=value)
    assert (who.rank, who.batch_size, who.node_id) == (None, None, None)
    assert identity.directory_of({"NODE_RANK": value, "LOCAL_RANK": value}) == ("node_0", "rank_0")
    codec.pack(who.to_map())


@pytest.mark.parametrize("value", ["", "x", "0", "-1", "nan", "inf"])
def test_a_malformed_interval_counts_as_not_set(value: str) -> None:
    assert read(PRIMUS_LENS_WANDB_FLUSH_INTERVAL=value).flush_interval is None


@pytest.mark.promise("G2")
def test_a_folder_cannot_be_smuggled_into_the_path() -> None:
    assert identity.directory_of({"LOCAL_RANK": "../../etc"}) == ("node_0", "rank_0")


def test_the_pod_s_host_name_counts_inside_kubernetes_only() -> None:
    assert read(HOSTNAME="pod-1").pod_name == ""
    assert read(HOSTNAME="pod-1", KUBERNETES_SERVICE_HOST="10.0.0.1").pod_name == "pod-1"
    assert read(HOSTNAME="x", KUBERNETES_SERVICE_HOST="y", POD_NAME="given").pod_name == "given"


def test_it_comes_back_through_the_file() -> None:
    who = spools.identity(rank=3, flush_interval=1.5, api_reporting=False, host="a\udcffb")
    assert Identity.from_map(codec.unpack(codec.pack(who.to_map()))) == who


def test_the_map_has_exactly_the_fields() -> None:
    assert list(spools.identity().to_map()) == [field.name for field in fields(Identity)]


def test_what_a_later_version_adds_is_passed_over() -> None:
    who = spools.identity()
    assert Identity.from_map({**who.to_map(), "colour": "blue", 7: 8}) == who


def test_what_is_missing_takes_the_default() -> None:
    assert Identity.from_map({k: v for k, v in KNOWN.items() if k != "version"}).node_type == (
        "worker"
    )


@pytest.mark.promise("G7")
@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": "3"},
        {"rank": True},
        {"rank": 1.5},
        {"api_reporting": 0},
        {"api_reporting": None},
        {"workload_uid": 7},
        {"workload_uid": None},
        {"flush_interval": "2"},
        {"flush_interval": False},
        {"node_type": [1]},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_left_out(wrong: dict[str, Any]) -> None:
    who = spools.identity()
    assert Identity.from_map({**who.to_map(), **wrong}) == who


@pytest.mark.parametrize("missing", ["spool", "created", "pid", "host"])
def test_without_what_names_it_there_is_no_identity(missing: str) -> None:
    with pytest.raises(TypeError):
        Identity.from_map({k: v for k, v in KNOWN.items() if k != missing})

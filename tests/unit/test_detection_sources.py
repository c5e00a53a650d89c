"""Frameworks, packages, build, checkout and environment, each from its own source."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from spooler.detection import RunFacts, View, build, environment, frameworks, installed, software
from spooler.detection.catalogue import CATALOGUE, MODULES

NOBODY = RunFacts(project="", name="", id="", config={}, tags=())
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def look(root: Path, modules: dict[str, Any] | None = None, **environ: str) -> View:
    return View(run=NOBODY, environ=environ, modules=modules or {}, files=root)


def module(name: str, **attributes: object) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(attributes)
    return made


def site(root: Path, *entries: str) -> dict[str, Any]:
    for entry in entries:
        (root / "site" / entry).mkdir(parents=True)
    return {"sys": module("sys", path=["/site"])}


def put(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


# --- distributions and frameworks -----------------------------------------------------------------


def test_the_listing_agrees_with_the_metadata_library() -> None:
    found = installed.look(look(Path("/"), dict(sys.modules)))
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"].replace("_", "-").replace(".", "-").lower()
        assert found.version(name), name
    assert found.version("numpy") == importlib.metadata.version("numpy")


def test_distribution_names_and_versions(tmp_path: Path) -> None:
    modules = site(
        tmp_path,
        "torch-2.3.0+cu121.dist-info",
        "Flash_Attn-2.6.3.dist-info",
        "apex-0.1-py3.10.egg-info",
        "broken.dist-info",
        "notadist",
        "megatron",
    )
    found = installed.look(look(tmp_path, modules))
    assert dict(found.versions) == {"torch": "2.3.0+cu121", "flash-attn": "2.6.3", "apex": "0.1"}
    assert found.sources == {"megatron"}


def test_the_first_directory_of_the_path_wins(tmp_path: Path) -> None:
    (tmp_path / "a/trl-1.dist-info").mkdir(parents=True)
    (tmp_path / "b/trl-2.dist-info").mkdir(parents=True)
    path: list[Any] = [None, "/a", "relative", "/missing", "/zip.zip", "/b", "/a\0b"]
    found = installed.look(look(tmp_path, {"sys": module("sys", path=path)}))
    assert found.version("trl") == "1"


def test_a_framework_is_named_with_its_evidence(tmp_path: Path) -> None:
    modules = {
        **site(tmp_path, "torch-2.3.0.dist-info", "deepspeed-0.14.dist-info", "megatron"),
        "torch": module("torch"),
        "megatron": module("megatron"),
        "megatron.core": module("megatron.core"),
    }
    assert frameworks.bases(look(tmp_path, modules)) == {
        "megatron": {
            "imported": True,
            "installed": True,
            "version": "",
            "indicators": ["sys.modules.megatron", "sys.modules.megatron.core", "source.megatron"],
        },
        "deepspeed": {
            "imported": False,
            "installed": True,
            "version": "0.14",
            "indicators": ["distribution.deepspeed"],
        },
        "pytorch": {
            "imported": True,
            "installed": True,
            "version": "2.3.0",
            "indicators": ["sys.modules.torch", "distribution.torch"],
        },
    }
    assert frameworks.wrappers(look(tmp_path, modules)) == {}


def test_a_declared_framework_is_named_without_being_there(tmp_path: Path) -> None:
    found = frameworks.wrappers(look(tmp_path, PRIMUS_CONFIG="/c", PRIMUS_VERSION="1.2.3"))
    assert found["primus"] == {
        "imported": False,
        "installed": False,
        "version": "1.2.3",
        "indicators": ["PRIMUS_CONFIG", "PRIMUS_VERSION"],
    }


def test_the_catalogue_is_consistent() -> None:
    names = [entry.name for entry in CATALOGUE]
    spellings = [text for entry in CATALOGUE for text in entry.aliases]
    assert len(set(names + spellings)) == len(names + spellings)
    assert {name for entry in CATALOGUE for name in entry.declares} <= environment.NAMES | {
        "PRIMUS_CONFIG"
    }
    assert all(environment.is_listed(name) for entry in CATALOGUE for name in entry.marks)
    assert "torch" in MODULES


def test_packages_from_metadata_and_from_loaded_source_trees(tmp_path: Path) -> None:
    modules = {
        **site(tmp_path, "transformers-4.40.0.dist-info", "requests-2.0.dist-info"),
        "apex": module("apex", __version__="0.1"),
        "vllm": module("vllm", __version__=7),
    }
    found = software.look(look(tmp_path, modules, ROCM_VERSION="6.2.0"))
    assert found["packages"] == {"transformers": "4.40.0", "apex": "0.1"}
    assert found["rocm_version"] == "6.2.0"


# --- build and checkout ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {
                "CI_JOB_URL": "https://ci/1",
                "CI_PIPELINE_ID": "9",
                "CI_COMMIT_SHA": COMMIT,
                "CI_COMMIT_REF_NAME": "main",
                "CI_PROJECT_URL": "https://ci/p",
            },
            {
                "build_url": "https://ci/1",
                "git_commit": COMMIT,
                "git_branch": "main",
                "git_repo": "https://ci/p",
                "ci_pipeline_id": "9",
            },
        ),
        (
            {"GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7", "GITHUB_SHA": COMMIT},
            {
                "build_url": "https://github.com/o/r/actions/runs/7",
                "git_commit": COMMIT,
                "git_repo": "https://github.com/o/r",
                "ci_pipeline_id": "7",
            },
        ),
        (
            {"BUILD_URL": "https://j/1", "BUILD_NUMBER": "1", "GIT_BRANCH": "b", "IMAGE_TAG": "v1"},
            {
                "build_url": "https://j/1",
                "image_tag": "v1",
                "git_branch": "b",
                "ci_pipeline_id": "1",
            },
        ),
        ({"BUILD_DATE": "  "}, {}),
    ],
)
def test_build_variables(tmp_path: Path, environ: dict[str, str], expected: dict[str, str]) -> None:
    assert build.look(look(tmp_path, **environ)) == expected


CONFIG = '[core]\n\tbare = false\n[remote "origin"]\n\turl = https://h/o/r.git\n\tfetch = x\n'


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {".git/HEAD": "ref: refs/heads/a/b\n", ".git/refs/heads/a/b": f"{COMMIT}\n"},
            {"git_commit": COMMIT, "git_branch": "a/b"},
        ),
        (
            {
                ".git/HEAD": "ref: refs/heads/main\n",
                ".git/packed-refs": f"# pack-refs\n{COMMIT} refs/heads/main\n^{COMMIT}\n",
                ".git/config": CONFIG,
            },
            {"git_commit": COMMIT, "git_branch": "main", "git_repo": "https://h/o/r.git"},
        ),
        ({".git/HEAD": f"{COMMIT}\n"}, {"git_commit": COMMIT}),
        (
            {
                ".git": "gitdir: elsewhere/worktrees/w\n",
                "elsewhere/worktrees/w/HEAD": "ref: refs/heads/w\n",
                "elsewhere/worktrees/w/commondir": "../..\n",
                "elsewhere/refs/heads/w": f"{COMMIT}\n",
                "elsewhere/config": CONFIG,
            },
            {"git_commit": COMMIT, "git_branch": "w", "git_repo": "https://h/o/r.git"},
        ),
        ({".git/HEAD": "garbage"}, {}),
        ({".git/config": CONFIG}, {}),
    ],
)
def test_checkout_above_the_working_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    expected: dict[str, str],
) -> None:
    put(tmp_path, files)
    (tmp_path / "scripts/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scripts/deep")
    assert build.look(look(Path("/"))) == expected


def test_a_variable_is_believed_before_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {".git/HEAD": "ref: refs/heads/local\n"})
    monkeypatch.chdir(tmp_path)
    assert build.look(look(Path("/"), GIT_BRANCH="release")) == {"git_branch": "release"}


# --- environment ----------------------------------------------------------------------------------


def test_the_environment_is_an_allow_list(tmp_path: Path) -> None:
    environ = {
        "PRIMUS_CONFIG": "/c",
        "WORLD_SIZE": "8",
        "JAX_PLATFORMS": "rocm",
        "SLURM_JOB_ID": "12",
        "EMPTY": "",
        "RANK": "",
        "HOME": "/root",
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "x",
        "WANDB_API_KEY": "x",
        "HF_TOKEN": "x",
        "PRIMUS_API_KEY": "x",
        "NEMO_TOKEN": "x",
        "DEEPSPEED_DB_PASSWORD": "x",
        "PRIMUS_LENS_API_BASE_URL": "http://x",
        "PRIMUSX": "x",
    }
    found = environment.look(look(tmp_path, **environ))
    assert sorted(found) == ["JAX_PLATFORMS", "PRIMUS_CONFIG", "SLURM_JOB_ID", "WORLD_SIZE"]


def test_no_listed_name_tells_of_a_secret() -> None:
    from spooler.masking import hides

    assert [name for name in environment.NAMES if hides(name, "text")] == []


def test_every_package_that_is_looked_for_has_a_whole_name() -> None:
    names = set(software.PACKAGES)
    assert {"ms-swift", "mosaicml-streaming"} <= names
    assert not [name for name in names if name.strip("-") != name]

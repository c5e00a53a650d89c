"""Makes one run file with the wandb of the interpreter that runs this, and what was logged in it.

    python make.py FOLDER    ->    FOLDER/run-<version>.wandb and FOLDER/run-<version>.json

The expected content is written down from what is passed to wandb, never read from the file.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONSOLE="off")
os.environ.update(WANDB_DISABLE_GIT="true", WANDB_DISABLE_CODE="true")

import wandb

MANY = 40


def log_all(run: "wandb.sdk.wandb_run.Run") -> "list[list[object]]":
    """Log one of everything; the steps that are expected of it."""
    nonfinite = {"nan": float("nan"), "inf": float("inf"), "ninf": float("-inf")}
    others = {"text": "ü — 損失", "none": None, "flag": True, "list": [1, 2, 3]}
    steps: list[list[object]] = []
    run.log({"loss": 0.5, "acc": 1})
    steps.append([0, {"loss": 0.5, "acc": 1}])
    run.log({"a/b": {"c": 1, "d": {"e": 2.5}}, "dot.ted": 1})
    steps.append([1, {"a/b": {"c": 1, "d": {"e": 2.5}}, "dot.ted": 1}])
    run.log(nonfinite)
    steps.append([2, nonfinite])
    run.log({"x": 1}, commit=False)
    run.log({"x": 2, "y": 3})
    steps.append([3, {"x": 2, "y": 3}])
    run.log(others)
    steps.append([4, others])
    run.log({"z": 1}, step=10)
    run.log({"more": 2}, step=10)
    run.log({"still": 3})
    steps.append([10, {"z": 1, "more": 2, "still": 3}])
    run.log({"hist": wandb.Histogram([1, 2, 3], num_bins=3), "html": wandb.Html("<p>x</p>")})
    media = {
        "hist": {"_type": "histogram", "class": "wandb.sdk.data_types.histogram.Histogram"},
        "html": {"_type": "html-file", "class": "wandb.sdk.data_types.html.Html"},
    }
    steps.append([11, media])
    for number in range(MANY):
        run.log({"curve": number / 7}, step=100 + number)
        steps.append([100 + number, {"curve": number / 7}])
    run.log({"open": 1}, commit=False)
    steps[-1][1] = {"curve": (MANY - 1) / 7, "open": 1}
    return steps


def main(folder: Path) -> None:
    version = wandb.__version__
    quiet = ("disable_stats", "disable_meta", "disable_machine_info", "save_requirements")
    known = dir(wandb.Settings())
    prefix = "x_" if "x_disable_stats" in known else "_"
    options = {f"{prefix}{name}": name != "save_requirements" for name in quiet}
    options = {name: value for name, value in options.items() if name in known}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        run = wandb.init(
            project="primus-training",
            entity="team",
            name="golden-sun-1",
            id="4x7k2m9q",
            group="sweep",
            job_type="train",
            tags=["baseline", "fp8"],
            settings=wandb.Settings(host="node-a", **options),
        )
        steps = log_all(run)
        run.finish(exit_code=3)
        wandb.teardown()  # only then have all versions written the file to its end
        (file,) = Path(place).glob("wandb/offline-run-*/run-*.wandb")
        shutil.copy(file, folder / f"run-{version}.wandb")
    expected = {
        "run": {
            "run": "4x7k2m9q",
            "project": "primus-training",
            "entity": "team",
            "name": "golden-sun-1",
            "group": "sweep",
            "job_type": "train",
            "tags": ["baseline", "fp8"],
            "tracker_version": version,
        },
        "steps": steps,
        "finish": {"step": steps[-1][0], "exit_code": 3},
    }
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (folder / f"run-{version}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

"""The frameworks known here, and the marks each one leaves; data only.

Rules:
- A wrapper is what a user's script drives; a base does the distributed work underneath; a runtime
  only computes, and nearly every job loads one, so it is named last.
- ``modules`` loaded means the framework was imported; ``working`` modules are loaded by a job that
  trains with it, not by a library that merely knows it.
- ``declares`` are variables set in order to choose the framework; ``marks`` are variables that its
  launcher or image leaves behind.
- The order is the order in which equals are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layer = Literal["wrapper", "base", "runtime"]


@dataclass(frozen=True, kw_only=True)
class Framework:
    """One framework and its marks."""

    name: str
    layer: Layer
    modules: tuple[str, ...]
    working: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    declares: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    version_variable: str = ""
    aliases: tuple[str, ...] = ()


_WRAPPERS = (
    Framework(
        name="primus",
        layer="wrapper",
        modules=("primus",),
        working=("primus.pretrain", "primus.core", "primus.modules", "primus.cli"),
        distributions=("primus",),
        declares=("PRIMUS_CONFIG",),
        marks=("PRIMUS_VERSION", "PRIMUS_PATH", "PRIMUS_BACKEND"),
        version_variable="PRIMUS_VERSION",
    ),
    Framework(
        name="lightning",
        layer="wrapper",
        modules=("lightning", "pytorch_lightning"),
        working=("lightning.pytorch.trainer.trainer", "pytorch_lightning.trainer.trainer"),
        distributions=("lightning", "pytorch-lightning"),
        aliases=("pytorch_lightning", "pl"),
    ),
    Framework(
        name="nemo",
        layer="wrapper",
        modules=("nemo", "nemo_automodel"),
        working=("nemo.collections", "nemo.lightning", "nemo_automodel.recipes"),
        distributions=("nemo-toolkit", "nemo-automodel"),
        aliases=("nemo_toolkit", "nvidia_nemo"),
    ),
    Framework(
        name="megatron_bridge",
        layer="wrapper",
        modules=("megatron.bridge",),
        working=("megatron.bridge.training",),
        distributions=("megatron-bridge",),
    ),
    Framework(
        name="torchtitan",
        layer="wrapper",
        modules=("torchtitan",),
        working=("torchtitan.train", "torchtitan.trainer", "torchtitan.components"),
        distributions=("torchtitan",),
        marks=("TORCHTITAN_CONFIG",),
    ),
    Framework(
        name="verl",
        layer="wrapper",
        modules=("verl",),
        working=("verl.trainer", "verl.workers"),
        distributions=("verl",),
    ),
    Framework(
        name="openrlhf",
        layer="wrapper",
        modules=("openrlhf",),
        working=("openrlhf.trainer",),
        distributions=("openrlhf",),
    ),
    Framework(
        name="llamafactory",
        layer="wrapper",
        modules=("llamafactory", "llmtuner"),
        working=("llamafactory.train", "llmtuner.train"),
        distributions=("llamafactory", "llmtuner"),
        marks=("LLAMAFACTORY_VERBOSITY",),
        aliases=("llama_factory",),
    ),
    Framework(
        name="axolotl",
        layer="wrapper",
        modules=("axolotl",),
        working=("axolotl.train", "axolotl.core"),
        distributions=("axolotl",),
    ),
    Framework(
        name="ms_swift",
        layer="wrapper",
        modules=("swift.llm", "swift.trainers"),
        working=("swift.trainers",),
        distributions=("ms-swift",),
        aliases=("swift",),
    ),
    Framework(
        name="unsloth",
        layer="wrapper",
        modules=("unsloth",),
        working=("unsloth.trainer",),
        distributions=("unsloth",),
    ),
    Framework(
        name="composer",
        layer="wrapper",
        modules=("composer",),
        working=("composer.trainer",),
        distributions=("mosaicml",),
        aliases=("mosaicml", "llm_foundry"),
    ),
    Framework(
        name="trl",
        layer="wrapper",
        modules=("trl",),
        working=("trl.trainer.sft_trainer", "trl.trainer.ppo_trainer", "trl.trainer.grpo_trainer"),
        distributions=("trl",),
    ),
    Framework(
        name="transformers",
        layer="wrapper",
        modules=("transformers",),
        working=("transformers.trainer",),
        distributions=("transformers",),
        aliases=("huggingface", "hf", "hf_trainer", "transformers_trainer"),
    ),
    Framework(
        name="accelerate",
        layer="wrapper",
        modules=("accelerate",),
        working=("accelerate.accelerator",),
        distributions=("accelerate",),
        marks=("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"),
    ),
    Framework(
        name="ray_train",
        layer="wrapper",
        modules=("ray.train",),
        working=("ray.train.torch", "ray.train._internal.session"),
        distributions=("ray",),
        aliases=("ray",),
    ),
    Framework(name="keras", layer="wrapper", modules=("keras",), distributions=("keras",)),
)

_BASES = (
    Framework(
        name="megatron",
        layer="base",
        modules=("megatron",),
        working=("megatron.core", "megatron.training"),
        distributions=("megatron-core", "megatron-lm"),
        declares=("MEGATRON_CONFIG",),
        aliases=("megatron_lm", "megatron_core", "mcore"),
    ),
    Framework(
        name="deepspeed",
        layer="base",
        modules=("deepspeed",),
        working=("deepspeed.runtime.engine",),
        distributions=("deepspeed",),
        declares=("DEEPSPEED_CONFIG",),
        aliases=("ds",),
    ),
    Framework(
        name="fsdp",
        layer="base",
        modules=("torch.distributed.fsdp",),
        aliases=("torch_fsdp", "pytorch_fsdp", "fsdp2"),
    ),
    Framework(
        name="torchtune",
        layer="base",
        modules=("torchtune",),
        working=("torchtune.training",),
        distributions=("torchtune",),
    ),
    Framework(
        name="maxtext",
        layer="base",
        modules=("MaxText", "maxtext"),
        distributions=("maxtext",),
    ),
    Framework(
        name="colossalai",
        layer="base",
        modules=("colossalai",),
        working=("colossalai.booster",),
        distributions=("colossalai",),
        aliases=("colossal_ai",),
    ),
    Framework(
        name="horovod",
        layer="base",
        modules=("horovod",),
        working=("horovod.torch", "horovod.tensorflow"),
        distributions=("horovod",),
    ),
)

_RUNTIMES = (
    Framework(
        name="pytorch",
        layer="runtime",
        modules=("torch",),
        distributions=("torch",),
        version_variable="PYTORCH_VERSION",
        aliases=("torch",),
    ),
    Framework(name="jax", layer="runtime", modules=("jax",), distributions=("jax",)),
    Framework(
        name="tensorflow",
        layer="runtime",
        modules=("tensorflow",),
        distributions=("tensorflow", "tensorflow-rocm", "tf-nightly"),
        aliases=("tf",),
    ),
    Framework(
        name="paddle", layer="runtime", modules=("paddle",), distributions=("paddlepaddle-gpu",)
    ),
    Framework(name="mindspore", layer="runtime", modules=("mindspore",)),
)

CATALOGUE = (*_WRAPPERS, *_BASES, *_RUNTIMES)
"""Every framework known here, in the order in which equals are named."""

MODULES = frozenset(name for entry in CATALOGUE for name in (*entry.modules, *entry.working))
"""Every module whose presence tells something."""

"""The installed packages that matter to a training job, with their versions.

Rules:
- An allow-list under the names the package index uses; what else is installed is nobody's concern.
- A package that is loaded but has no metadata (a source tree) gives the version it states itself.
"""

from __future__ import annotations

from typing import Any

from spooler.detection import amd, installed
from spooler.detection.view import View

# Runtimes and compilers.
_RUNTIMES = """
torch torchvision torchaudio torch-xla triton pytorch-triton-rocm jax jaxlib flax optax orbax
orbax-checkpoint tensorflow tensorflow-rocm keras numpy scipy pandas pyarrow
"""

# Frameworks.
_FRAMEWORKS = """
primus primus-turbo megatron-core megatron-lm megatron-bridge deepspeed transformers accelerate
lightning pytorch-lightning torchtitan torchtune torchao verl openrlhf llamafactory axolotl
ms-swift unsloth mosaicml trl peft nemo-toolkit ray colossalai horovod maxtext
"""

# Kernels and numerics.
_KERNELS = """
transformer-engine flash-attn flash-attn-3 xformers apex bitsandbytes liger-kernel aiter
grouped-gemm mamba-ssm causal-conv1d cupy einops nvidia-nccl-cu12 nvidia-cudnn-cu12 amdsmi
"""

# Data, tracking, serving in the loop.
_AROUND = """
datasets tokenizers sentencepiece tiktoken safetensors huggingface-hub webdataset
mosaicml-streaming wandb mlflow tensorboard hydra-core omegaconf torchmetrics evaluate vllm sglang
diffusers timm einx lens-ship dlrover
"""

PACKAGES = tuple((_RUNTIMES + _FRAMEWORKS + _KERNELS + _AROUND).split())

_MODULES = {"flash-attn-3": "flash_attn_interface", "hydra-core": "hydra", "megatron-core": ""}


def look(view: View) -> dict[str, Any]:
    """Return the package versions and that of ROCm."""
    there = installed.look(view)
    versions = {name: there.version(name) or _stated(view, name) for name in PACKAGES}
    facts: dict[str, Any] = {
        "packages": {name: version for name, version in versions.items() if version}
    }
    rocm = amd.rocm_version(view)
    return {**facts, "rocm_version": rocm} if rocm else facts


def _stated(view: View, name: str) -> str:
    return view.attribute_text(_MODULES.get(name, name.replace("-", "_")), "__version__")

"""As in Megatron-LM, importing it imports `global_vars`."""

from . import global_vars as global_vars

"""Stands for Megatron-LM: it calls wandb as `megatron/training` of 2023 to 2026 does."""

"""Unusual things to log: a tensor without torch, media of wandb's own, and one that resists.

Imported by `scenario.py`, beside which it stands, in an interpreter of its own.
"""

from __future__ import annotations

from typing import Any


class Tensor:
    """What a torch tensor looks like: wandb asks its type's name, we its dtype, shape and item."""

    __module__ = "torch"

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self._value, self.shape, self.dtype = value, shape, "torch.float32"

    def item(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    def __float__(self) -> float:
        return float(self.item())

    def dim(self) -> int:
        return len(self.shape)

    def size(self) -> tuple[int, ...]:
        return self.shape

    requires_grad = False

    def detach(self) -> Tensor:
        return self

    cpu = clone = detach

    @property
    def data(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        import numpy

        return numpy.full(self.shape, self.item())


def image(pixels: Any) -> Any:
    """A wandb image where Pillow is installed, which wandb needs for it; else another medium."""
    import wandb

    try:
        return wandb.Image(pixels)
    except wandb.Error:
        return wandb.Html("<p>no Pillow</p>")


def table() -> Any:
    """A wandb table; some versions ask their server what it can do before they log one."""
    import wandb

    if wandb.__version__.startswith(("0.17", "0.18", "0.19", "0.20", "0.21")):
        return wandb.Html("<p>no table offline</p>")
    return wandb.Table(columns=["a"], data=[[1]])


def stubborn() -> Any:
    """A medium that wandb takes, with an `item` for us that raises."""
    import wandb

    class Stubborn(wandb.Html):
        dtype, shape = "odd", ()

        def item(self) -> Any:
            raise KeyError("not for you")

    return Stubborn("<p>x</p>")

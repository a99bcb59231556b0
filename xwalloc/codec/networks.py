"""Networks of the codec, where they run: on a CPU in the thread of the chunk, on a CUDA device in the device's thread.

On a device, chunks that are decoded at the same time are merged, those of equal shape. Integer networks come to the
same bits in any company. Float networks come within their tolerance, which decoders are allowed; encoders are not
merged, since their bytes may not depend on what else is encoded.

On a CPU merging does not pay: its threads have a chunk each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec import engine
from xwalloc.codec.devices import CPU, DeviceMemoryError, arithmetic, fall_back, owner

if TYPE_CHECKING:
    from xwalloc.models.neural import Network
    from xwalloc.models.published import Published
    from xwalloc.transform.tree import Plan

__all__ = ["alone", "decode_published", "refined"]

R = TypeVar("R")


def alone(compute: Callable[[str], R]) -> R:
    """``compute(device)`` in the thread that the device asks for, not merged with anything.

    Raises
    ------
    ConfigError
        If there is no such device as the setting ``device`` asks for.
    DeviceMemoryError
        If the device has too little memory.
    """
    device = engine.device()
    if device == CPU:
        return compute(CPU)

    def work() -> R:
        with arithmetic(networks=True):
            return compute(device)

    return engine.wait(owner(device).executor.submit(work))


def decode_published(published: Published, latents: NDArray[Any], signal: Sequence[int]) -> NDArray[np.float64]:
    """What `Published.decode` returns, within its tolerance; perhaps merged with other chunks.

    Raises
    ------
    ConfigError
        As for `alone`.
    """
    device = engine.device()
    if device == CPU:
        return published.decode(latents, signal)
    work = _Decode(published, device, latents.shape[1:], tuple(signal))
    nbytes = published.working_bytes(signal) * len(latents)
    try:
        x: NDArray[np.float64] = engine.wait(owner(device).batcher.submit(work, latents, nbytes=nbytes))
    except DeviceMemoryError as error:
        fall_back(error)
        return published.decode(latents, signal)
    return x


@dataclass(frozen=True)
class _Decode:
    """Decoding of items (batch, latent, *positions) of one shape but for the batch."""

    published: Published
    device: str
    shape: tuple[int, ...]
    signal: tuple[int, ...]

    def __call__(self, items: list[NDArray[Any]]) -> list[NDArray[np.float64]]:
        at_once = max(1, owner(self.device).batcher.limit // self.published.working_bytes(self.signal))
        with arithmetic(networks=True):
            x = self.published.decode(np.concatenate(items), self.signal, device=self.device, at_once=at_once)
        return np.split(x, np.cumsum([len(item) for item in items])[:-1])


def refined(
    network: Network,
    latents: NDArray[np.float64],
    symbols: NDArray[np.int32],
    plan: Plan,
    codes: NDArray[np.int64],
    quantum: int,
) -> None:
    """What `Network.refined` does, to the bit; perhaps merged with other chunks.

    Raises
    ------
    ConfigError
        As for `alone`.
    """
    device = engine.device()

    def correct(symbols: NDArray[np.int32], codes: NDArray[np.int64]) -> NDArray[np.int8]:
        work = _Correct(network, device, plan, symbols.shape[1])
        nbytes = network.working_bytes() * symbols.size
        found: NDArray[np.int8] = engine.wait(owner(device).batcher.submit(work, (symbols, codes), nbytes=nbytes))
        return found

    if device != CPU:
        try:
            network.refined(latents, symbols, plan, codes, quantum, engine.map_parallel, correct=correct)
            return
        except DeviceMemoryError as error:  # before anything is corrected
            fall_back(error)
    network.refined(latents, symbols, plan, codes, quantum, engine.map_parallel)


@dataclass(frozen=True)
class _Correct:
    """Corrections of items: symbols (batch, rank, *plan.shape) and magnitude codes (rank, subband)."""

    network: Network
    device: str
    plan: Plan
    rank: int

    def __call__(self, items: list[tuple[NDArray[np.int32], NDArray[np.int64]]]) -> list[NDArray[np.int8]]:
        import torch

        symbols = np.concatenate([symbols for symbols, _ in items])
        codes = np.concatenate([np.broadcast_to(codes, (len(symbols), *codes.shape)) for symbols, codes in items])
        with arithmetic(networks=True):
            found = self.network.correct(torch.from_numpy(symbols).to(self.device), self.plan, codes)
            corrections = found.cpu().numpy()
        return np.split(corrections, np.cumsum([len(symbols) for symbols, _ in items])[:-1])

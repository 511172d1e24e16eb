"""The random generators of every process: apart from each other from the first step on, and restored from a checkpoint."""

import hashlib
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer


class Randomness(Callback):
    """Weights and data order follow the run's seed alone; what is drawn while training (dropout, noise) must differ between processes.

    The first process keeps the generators as the seed left them, so that a run of one process is what it always was. A checkpoint holds the states
    of all processes. A run that goes on with more of them than it had seeds the new ones from the step, which no earlier process has used.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._restored = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._restored and trainer.global_rank > 0:
            _seed(self._seed, trainer.global_rank, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """All processes' states; to be called on all of them."""
        own = _states()
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return {"ranks": [own]}
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, own)
        return {"ranks": every}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if rank < len(state_dict["ranks"]):
            _restore(state_dict["ranks"][rank])
            self._restored = True


def _states() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def _restore(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def _seed(seed: int, rank: int, step: int) -> None:
    own = int.from_bytes(hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest(), "little")
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)

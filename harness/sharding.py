"""`--trainer.strategy fsdp2`: weights, gradients and optimizer state sharded over the processes (FSDP2, torch's `fully_shard`).

One unit per branch and one for the rest, the scheme's parameters included: they are used between branches, in the root's forward, and so must be
gathered for all of it. Checkpoints are the very files a single process writes, so that a run can move between any number of processes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

# torch.distributed.checkpoint is imported where it is used: no other run should spend the time.

NAME = "fsdp2"
MEASURES = ("max_attention_logit",)
"""Methods of branches, beside forward, that use their weights and so need them gathered."""


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy as pure data parallelism, with the checkpoints of one process."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's "auto" means one per node
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        network: Any = self.lightning_module.network if self.lightning_module is not None else None
        assert isinstance(network, nn.Module)
        mesh = self.device_mesh["data_parallel"]
        branches: Iterable[nn.Module] = getattr(network, "branches", ())
        for branch in branches:
            if any(True for _ in branch.parameters()):
                fully_shard(branch, mesh=mesh)
                for name in MEASURES:
                    if hasattr(branch, name):
                        register_fsdp_forward_method(branch, name)
        fully_shard(network, mesh=mesh)
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole model on the first process, nothing on the others."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        return get_model_state_dict(self._resharded(), options=_whole())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What `Optimizer.state_dict` of a single process would give, on the first process; nothing on the others."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        named = get_optimizer_state_dict(self._resharded(), _inner(optimizer), options=_whole())
        return _numbered(named) if self.global_rank == 0 else {}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read on every process; each keeps its shards. Lightning hands in no ``weights_only`` here, the checkpoint reader insists on it."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        path = Path(self.broadcast(checkpoint_path))
        state: dict[str, Any] = self.checkpoint_io.load_checkpoint(path)
        model = self._resharded()
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(model, state["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, state["optimizer_states"], strict=True):
            inner = _inner(optimizer)
            set_optimizer_state_dict(model, inner, _named(saved, _names(model, inner)), options=options)
        return state

    def _resharded(self) -> nn.Module:
        """The model, certain to show its shards: after a forward pass without a backward pass the root still holds whole weights."""
        assert self.model is not None
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return self.model


def _whole() -> "StateDictOptions":
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _inner(optimizer: Any) -> Optimizer:
    """Lightning's wrapper of an optimizer off."""
    found: Optimizer = getattr(optimizer, "_optimizer", optimizer)
    return found


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order of its groups, which is how a plain optimizer's state numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """State keyed by names -> keyed by numbers in the order of the groups."""
    numbers: dict[str, int] = {}
    groups = []
    for group in state["param_groups"]:
        for name in group["params"]:
            numbers[name] = len(numbers)
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    return {"state": {numbers[name]: moments for name, moments in state["state"].items()}, "param_groups": groups}


def _named(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The inverse of `_numbered`; numbers count in the order of the groups whatever they are."""
    by_number = dict(zip((number for group in state["param_groups"] for number in group["params"]), names, strict=True))
    return {
        "state": {by_number[number]: moments for number, moments in state["state"].items()},
        "param_groups": [
            {**group, "params": [by_number[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def register() -> None:
    """Make the name known to Lightning's Trainer."""
    if NAME not in StrategyRegistry:
        StrategyRegistry.register(NAME, FullyShardedStrategy, description="FSDP2 over all processes")

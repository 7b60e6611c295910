"""lit_rlhf: reward models, and what policy optimisation does to them, as LightningModules.

Importing the package is cheap: each public name is imported from its room when it is first used. Imports run one way:
``functional ← data ← world, networks ← rewards ← policy ← evaluation ← cli``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_rlhf.data.collate import Collate
    from lit_rlhf.data.datamodule import PreferenceDataModule
    from lit_rlhf.networks.adapters import LoRA
    from lit_rlhf.networks.optimizer import Optimizer
    from lit_rlhf.networks.sampling import Sampling
    from lit_rlhf.policy import BaselineModule, PPOModule, SFTModule
    from lit_rlhf.rewards import (
        ContrastiveReward,
        ContrastiveRewardModule,
        GoldReward,
        MetaRewardModule,
        PythonReward,
        RewardModel,
        ScalarReward,
        ScalarRewardModule,
        Seq2SeqReward,
        Seq2SeqRewardModule,
    )

__version__ = "0.1.0"

_ROOMS = {
    "BaselineModule": "policy",
    "Collate": "data.collate",
    "ContrastiveReward": "rewards",
    "ContrastiveRewardModule": "rewards",
    "GoldReward": "rewards",
    "LoRA": "networks.adapters",
    "MetaRewardModule": "rewards",
    "Optimizer": "networks.optimizer",
    "PPOModule": "policy",
    "PreferenceDataModule": "data.datamodule",
    "PythonReward": "rewards",
    "RewardModel": "rewards",
    "SFTModule": "policy",
    "Sampling": "networks.sampling",
    "ScalarReward": "rewards",
    "ScalarRewardModule": "rewards",
    "Seq2SeqReward": "rewards",
    "Seq2SeqRewardModule": "rewards",
}

__all__ = [
    "BaselineModule",
    "Collate",
    "ContrastiveReward",
    "ContrastiveRewardModule",
    "GoldReward",
    "LoRA",
    "MetaRewardModule",
    "Optimizer",
    "PPOModule",
    "PreferenceDataModule",
    "PythonReward",
    "RewardModel",
    "SFTModule",
    "Sampling",
    "ScalarReward",
    "ScalarRewardModule",
    "Seq2SeqReward",
    "Seq2SeqRewardModule",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The schema of every config. YAML files only fill it in; a misspelt key or a wrong type fails before anything runs.

Validation is pure: it looks at values only and reads no files, no network and no clock. Derived quantities are
properties.
"""

from rl.config.algorithm import AlgorithmConfig, CriticConfig, StageConfig, TermConfig
from rl.config.offline import OfflineConfig
from rl.config.optim import OptimConfig
from rl.config.parts import EngineConfig, EnvConfig, LoraConfig, ModelConfig
from rl.config.run import (
    BudgetConfig,
    EvalConfig,
    HubConfig,
    RunConfig,
    SFTConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "AlgorithmConfig",
    "BudgetConfig",
    "CriticConfig",
    "EngineConfig",
    "EnvConfig",
    "EvalConfig",
    "HubConfig",
    "LoraConfig",
    "ModelConfig",
    "OfflineConfig",
    "OptimConfig",
    "RunConfig",
    "SFTConfig",
    "StageConfig",
    "TermConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
]

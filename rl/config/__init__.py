"""The schema of every config. YAML files only fill it in; a misspelt key or a wrong type fails before anything runs.

Validation is pure: values only, no files, no network, no clock. Derived quantities are properties.
"""

from rl.config.algorithm import (
    KL,
    Advantage,
    AlgorithmConfig,
    Critic,
    CriticConfig,
    Importance,
    Loss,
    Normaliser,
    Reference,
    StageConfig,
)
from rl.config.offline import OfflineConfig, Rule
from rl.config.parts import EngineConfig, EnvConfig, LoraConfig, ModelConfig
from rl.config.run import (
    EvalConfig,
    OptimConfig,
    RunConfig,
    Schedule,
    Select,
    SFTConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "KL",
    "Advantage",
    "AlgorithmConfig",
    "Critic",
    "CriticConfig",
    "EngineConfig",
    "EnvConfig",
    "EvalConfig",
    "Importance",
    "LoraConfig",
    "Loss",
    "ModelConfig",
    "Normaliser",
    "OfflineConfig",
    "OptimConfig",
    "Reference",
    "Rule",
    "RunConfig",
    "SFTConfig",
    "Schedule",
    "Select",
    "StageConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
]

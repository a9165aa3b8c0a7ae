"""Keras callbacks for adversarial training: evaluation, checkpoints, signals, logs, TensorBoard."""

from tfadv.callbacks.adversarial_images import AdversarialImages
from tfadv.callbacks.adversarial_training import AdversarialTraining
from tfadv.callbacks.batch_norm_statistics import BatchNormStatistics
from tfadv.callbacks.checkpoint import Checkpoint
from tfadv.callbacks.hyper_parameters import HyperParameters
from tfadv.callbacks.preemption import Preemption
from tfadv.callbacks.robust_evaluation import RobustEvaluation
from tfadv.callbacks.run_log import EpochTable, RunLog
from tfadv.callbacks.running_statistics import RunningStatistics
from tfadv.callbacks.same_weights import SameWeights
from tfadv.callbacks.training_scalars import TrainingScalars

__all__ = [
    "AdversarialImages",
    "AdversarialTraining",
    "BatchNormStatistics",
    "Checkpoint",
    "EpochTable",
    "HyperParameters",
    "Preemption",
    "RobustEvaluation",
    "RunLog",
    "RunningStatistics",
    "SameWeights",
    "TrainingScalars",
]

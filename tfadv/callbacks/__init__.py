"""Keras callbacks: adversarial training and what belongs to it."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "AdversarialImages": "adversarial_images",
        "AdversarialTraining": "adversarial_training",
        "BatchNormStatistics": "batch_norm_statistics",
        "Checkpoint": "checkpoint",
        "HyperParameters": "hyper_parameters",
        "Preemption": "preemption",
        "RobustEvaluation": "robust_evaluation",
        "RunLog": "run_log",
        "RunningStatistics": "running_statistics",
        "SameWeights": "same_weights",
        "TrainingScalars": "training_scalars",
    },
)

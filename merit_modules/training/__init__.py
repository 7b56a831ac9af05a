"""From a recipe's settings to trained weights."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "brain": "JointBrain",
        "checkpoints": "AtomicCheckpointer",
        "conflict": "ConflictLog",
        "gradients": "GradientSurgery",
        "targets": "AttributeTarget EmotionTarget",
    },
)

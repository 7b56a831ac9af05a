"""What training minimises."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "enhancement": "log1p_l1 negative_si_sdr",
        "joint": "JointLoss UncertaintyWeighting",
        "recognition": "AttributeLoss EmotionLoss concordance",
        "routing": "RoutedCost expert_load load_balance load_kl pool_load "
        "router_z",
        "shares": "Share",
    },
)

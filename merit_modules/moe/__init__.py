"""Layer representations to a feature per task: experts and their routers."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "experts": "ExpertPool FeedForwardExpert LayerMixingExpert "
        "LayerMixingPool",
        "layer_mix": "LayerNormConcat LayerNorms WeightedLayerSum",
        "mixture": "ExpertMixture MixtureOutput TaskFeatures",
        "routers": "RoutingDecision TopKRouter",
        "task_sums": "TaskLayerSums",
    },
)

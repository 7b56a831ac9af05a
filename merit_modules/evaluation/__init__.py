"""A trained system under every test condition."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "conditions": "TestCondition",
        "evaluation": "Evaluation",
        "routing_log": "Routing RoutingLog read_routing",
    },
)

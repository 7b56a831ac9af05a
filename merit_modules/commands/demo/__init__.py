"""A page in the browser that lets a trained model listen: ``merit demo``.

Everything stays on the machine: no request to the network, no telemetry, no
copy of what was uploaded once its page is closed.
"""

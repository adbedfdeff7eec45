"""The gateway that applications call: it serves the committed release, names its version, and only reads.

``front/app.py`` puts the parts together; docs/gateway.md describes the interface and its limits.
"""

"""The gateway: what applications call. It serves the committed release, says which one it is, and only reads.

``front/app.py`` puts the parts together; docs/gateway.md describes the interface and its limits.
"""

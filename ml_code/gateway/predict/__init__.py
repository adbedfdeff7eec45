"""Rows of a client become tensors, and the answer rows: ``/predict``."""

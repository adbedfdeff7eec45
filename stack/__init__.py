"""The embedded stack: real S3, MLflow, Triton and Airflow servers on one machine."""

from __future__ import annotations

from .errors import StackError
from .servers import Stack

__all__ = ["Stack", "StackError"]

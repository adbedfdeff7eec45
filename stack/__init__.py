"""The embedded stack: real S3, MLflow, Triton and Airflow servers on one machine."""

from stack.errors import StackError
from stack.servers import Stack

__all__ = ["Stack", "StackError"]

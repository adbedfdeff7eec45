"""The exit codes of ``triton-deploy``. Those of an error are a field of its class: see ``errors``."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes that are not those of a ``DeployError``."""

    DONE = 0
    DEFECT = 1
    DISAGREES = 7
    ROLLED_BACK = 8
    UNFINISHED = 9
    NO_READER = 128 + signal.SIGPIPE
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


EXIT_CODES = """exit codes:
  0  done; nothing to do; status: Triton serves what is live; deployment committed
  1  unexpected error, a defect
  2  wrong usage
  3  bad name or setting, model, alias or deployment unknown, access denied: correct it
  4  the model is refused, or fails its checks, its canary or its bake: repair the model
  5  MLflow, S3, Triton or the disk failed: try again when it is back
  6  another deploy of the model is under way, or came first; a person aborted the canary; the deploy id is another deployment's
  7  status: a Triton does not serve what is live; reconcile, gc, bake: something is left for a person; deploy: the canary could not be judged, and was rolled back; doctor: something failed
  8  status: the deployment was rolled back
  9  status: the deployment has not ended
  130, 143  stopped by Ctrl-C or by SIGTERM, after a deploy under way was rolled back
"""

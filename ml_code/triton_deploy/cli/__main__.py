"""``python -m ml_code.triton_deploy.cli`` is ``triton-deploy``."""

import sys

from . import program

if __name__ == "__main__":
    sys.exit(program())

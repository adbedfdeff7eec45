"""The trainers, one file each. A new trainer is a file here, or in a folder that ``TRAINERS_PATH`` names.

docs/training.md describes such a file.
"""

from __future__ import annotations

import os

# Searched in order: a user's file can't take the place of one from here.
__path__ += [folder for folder in os.environ.get("TRAINERS_PATH", "").split(os.pathsep) if folder]

"""The trainers: one file each. A file that is added here, or to a folder that ``TRAINERS_PATH`` names, is one more.

docs/training.md says what such a file has to have.
"""

from __future__ import annotations

import os

# Searched in order: a user's file can't take the place of one from here.
__path__ += [folder for folder in os.environ.get("TRAINERS_PATH", "").split(os.pathsep) if folder]

"""Tables to train on: from one a good model comes, from the other a bad one."""

from __future__ import annotations

# Of breast_cancer: a strong penalty makes a model that is rarely sure, and much worse by its log loss.
DULL, SHARP = {"regularization": 1000.0}, {"regularization": 1.0}

"""Whether a newly trained model is to take the place of the one that serves, and the numbers that say so.

The rules (``rules``, ``scores``, ``judgement``) do no I/O; ``measuring`` runs models, ``sources`` finds them, ``evaluation`` is the
sequence, ``promotion`` moves the alias. ``python -m ml_code.gate`` is the command line.
"""

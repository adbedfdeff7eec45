"""Decides by measurements whether a newly trained model replaces the live version.

The rules (``rules``, ``scores``, ``judgement``) do no I/O; ``measuring`` runs models, ``sources`` finds
them, ``evaluation`` is the sequence, ``promotion`` moves the alias. ``python -m ml_code.gate`` is the
command line.
"""

"""What the command-line programs share: how they start, fail and end, and the options they have in common.

Imports neither NumPy nor the engine, so that ``--help`` is instant.
"""

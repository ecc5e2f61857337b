"""Measures this engine beside others: same weights, same machine, one run.  ``python -m bench --help``.

Every engine works in a process of its own (:mod:`bench.workers`), because the thread pools of
torch and of NumPy's BLAS spin and would slow each other down.  The engines take turns, repeat by
repeat, so that a disturbance of the machine meets all of them.  What is compared is the median.
"""

"""From ranks to numbers: metrics of one query, group means, averages, intervals, paired tests.

You may add a metric here; it needs one function and its name.
"""

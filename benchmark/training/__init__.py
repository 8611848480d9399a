"""What all trainings share: state to resume from, optimizer, selection, signals, loss plot.

You may change how a training is kept and resumed; what it computes is in `methods/`.
"""

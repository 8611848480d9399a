"""What all trainings share: saved states, optimizer, schedule, epochs, selection, signals.

You may change how a training is kept and resumed; what it computes is in `methods/`.
"""

"""Sweeps over methods, tasks and backbones on a cluster; for users, see README.md here.

You may change how jobs are asked for, followed and collected without knowing what they compute.
"""

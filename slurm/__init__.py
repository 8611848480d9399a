"""Sweeps over methods, tasks and backbones on a cluster."""

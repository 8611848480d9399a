"""Sweeps over methods, tasks and backbones on a cluster; for users, see README.md here."""

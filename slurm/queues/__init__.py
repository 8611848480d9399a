"""Where jobs wait: Slurm, or this machine; and the code that they run."""

"""What only a GPU can show: `make gpu` checks and measures it, part by part, in under six minutes.

Each part runs in a process of its own, so that one that crashes, hangs or takes too long costs the
others nothing. What a part finds is on the disk as soon as it is found.
"""

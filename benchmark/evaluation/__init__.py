"""A request becomes a plan, and a plan becomes records.

You may change the order of the stages, and what is looked up before any weights are loaded.
"""

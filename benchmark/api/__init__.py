"""What a plug-in implements, the values that cross the rooms, and the names they are known by.

A new method, task or backbone needs this room and its own file. You may add an entry to the
registry freely; a changed field of a value is felt everywhere.
"""

"""Records of what was computed elsewhere: vectors, rankings, and answers for a server.

They are ranked and scored as everything is, and a record never hides that they came from a file.
"""

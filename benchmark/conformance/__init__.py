"""What others bring, held to the contract of its seam: a method, a task or a backbone.

You may add a rule to a seam here; each is one function that says what falls short.
"""

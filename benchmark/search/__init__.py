"""A person's pictures and words through the same methods, at the prompt and on a local page.

You may change the page and its forms; composing and ranking are those of an evaluation.
"""

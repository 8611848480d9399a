"""What records say: boards, differences, verdicts against published numbers.

You may add a question to ask of records; nothing here writes a file or draws.
"""

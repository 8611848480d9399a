"""From a path, a table or a shard to pixels, the only place where a picture is opened.

You may change how pictures are found, decoded and preprocessed; stored embeddings follow by
themselves, since the code of this room is part of their key.
"""

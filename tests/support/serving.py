"""A server on the loopback address that plays hosts of files, and Hugging Face's hub."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `contents`, path → bytes, with ranges.

    `asked` has the range of each GET of one, or None. The next `cuts` answers break off in the
    middle; with `slow` an answer comes in eight pieces.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.cuts, self.slow = 0, False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_HEAD(self):
        self._begin()

    def do_GET(self):
        known = self.path in self.server.contents
        if known:
            self.server.asked.append(self.headers["Range"])
        content = self._begin()
        if known and self.server.cuts > 0:
            self.server.cuts -= 1
            content = content[: len(content) // 2]
        pieces = 8 if self.server.slow else 1
        step = -(-len(content) // pieces) or 1
        for start in range(0, len(content), step):
            if self.server.slow:
                time.sleep(0.02)
            self.wfile.write(content[start : start + step])

    def _begin(self) -> bytes:
        if self.path not in self.server.contents:
            self.send_error(404, "Not Found")
            return b""
        whole = self.server.contents[self.path]
        wanted = self.headers["Range"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and start >= len(whole):
            self.send_error(416)
            return b""
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(whole) - start))
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')  # as the hub
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        return whole[start:]

    def log_message(self, *_):
        pass


@contextmanager
def serve_files() -> Iterator[FileServer]:
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()

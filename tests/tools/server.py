"""A web server on this machine that serves one file, well or in one of many wrong ways."""

import contextlib
import http.server
import re
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the next of the server's `ways` says, or well where there is none left."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        way = server.ways.pop(0) if server.ways else {}
        content, mark = way.get("content", server.content), way.get("mark", server.mark)
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range") == mark or way.get("ignores_if_range")
        if match and is_same and not way.get("ignores_range"):
            start = int(match[1])
        status = way.get("status", 206 if start else 200)
        self.send_response(status)
        if mark:
            self.send_header("ETag", mark)
        if status == 206:
            whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", way.get("range", whole))
        if not way.get("without_length"):
            self.send_header("Content-Length", str(way.get("length", len(content) - start)))
        for name, value in way.get("headers", {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content[start : start + way.get("bytes", len(content))])


@contextlib.contextmanager
def serving(content, mark='"1"'):
    """Within it a server of `content`, whose `url` and `ways` it has, and the `ranges` that it was asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.mark, server.ways, server.ranges = content, mark, [], []
        server.url = f"http://127.0.0.1:{server.server_port}/cifar_teachers.tar"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

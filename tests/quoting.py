"""Servers that quote what they were told, in errors."""

import contextlib
import http.server
import socketserver
import threading


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def machines_api(answer):
    """A Machines API that answers (status, headers, body) by request, headers and body. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            status, headers, said = answer(f"{self.command} {self.path}", self.headers, body)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(said.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.encode())

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_):
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextlib.contextmanager
def redis_that_quotes():
    """A Redis, or a proxy before one, that refuses each request in its own words. Yields its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            while said := self.request.recv(65536):
                quoted = said.decode(errors="replace").replace("\r\n", " ")
                self.request.sendall(f"-ERR unknown command, with args beginning with: {quoted}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server) as port:
        yield port

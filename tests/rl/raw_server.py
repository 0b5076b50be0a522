"""A server that writes bytes of its own choice in the place of HTTP, for ever if it likes."""

import contextlib
import socket
import threading
import time


class RawServer:
    """Each connection is handed to play(connection), a request read before; counts bytes sent."""

    def __init__(self, play, read=True):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._play, self._read = play, read
        self.sent, self.over = 0, threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def close(self):
        self.over.set()
        # A blocked accept is not woken by close alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with contextlib.suppress(OSError), connection:
            if self._read:
                read_request(connection)
            self._play(self, connection)

    def send(self, connection, data):
        connection.sendall(data)
        self.sent += len(data)

    def drip(self, connection, first, piece, pause_s=0.02):
        """First at once, then the piece again and again, until the client has gone."""
        self.send(connection, first)
        while not self.over.is_set():
            self.send(connection, piece)
            time.sleep(pause_s)


def read_request(connection):
    """Reads a request to the end of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            return
        body += more

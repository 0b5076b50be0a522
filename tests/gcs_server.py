"""Google Cloud Storage on the loopback, in memory: gcp-storage-emulator, and what it lacks.

    python -m tests.gcs_server    prints its address, and serves until its input ends

The emulator knows no conditions: `ifGenerationMatch`, by which a client creates an object only
where there is none, and replaces only the one that it has seen, is added here, and so is the header
by which a client knows what it has read. Its parser of uploads, one for mail, loses a carriage
return at an object's end; here is another.
"""

import io
import json
import socketserver
import sys
import threading
from http import HTTPStatus, server

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import NotFound, Storage

BUCKET = "bucket"
_ONE = threading.Lock()  # the emulator's storage is not made for threads


class Handler(emulator.RequestHandler):
    """The emulator's, a request at a time.

    Its storage alone is locked: a client that sends slowly, is stopped, or reads another answer
    first holds up no other.
    """

    def do_GET(self):
        self._answer(super().do_GET)

    def do_POST(self):
        self._answer(super().do_POST)

    def do_PUT(self):
        self._answer(super().do_PUT)

    def do_DELETE(self):
        self._answer(super().do_DELETE)

    def _answer(self, answer):
        body = emulator._read_raw_data(self)
        del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
        if body is not None:
            self.headers["Content-Length"] = str(len(body))
        client = self.rfile, self.wfile
        self.rfile, self.wfile = io.BytesIO(body or b""), io.BytesIO()
        try:
            with _ONE:
                answer()
            answered = self.wfile.getvalue()
        finally:
            self.rfile, self.wfile = client
        self.wfile.write(answered)


def generation(storage, bucket, name):
    """Of an object; 0 where there is none."""
    try:
        return int(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return 0


def conditional(handler, place):
    """A handler that refuses with 412 where a request's condition is not met."""

    def handle(request, response, storage, *args, **kwargs):
        wanted = request.query.get("ifGenerationMatch")
        if wanted:
            there = generation(storage, request.params["bucket_name"], place(request))
            if int(wanted[0]) != there:
                response.status = HTTPStatus.PRECONDITION_FAILED
                response.json({"error": {"code": 412, "message": "conditionNotMet"}})
                return None
        return handler(request, response, storage, *args, **kwargs)

    return handle


def with_generation(handler):
    """A handler that says which generation of an object it gives, as TensorStore needs to know."""

    def handle(request, response, storage, *args, **kwargs):
        name, bucket = request.params["object_id"], request.params["bucket_name"]
        there = generation(storage, bucket, name)
        if request.query.get("ifGenerationNotMatch") == [str(there)]:
            response.status = HTTPStatus.NOT_MODIFIED
            return None
        response["x-goog-generation"] = str(there)
        return handler(request, response, storage, *args, **kwargs)

    return handle


def uploaded(request):
    """The name of the object that a request puts."""
    if "name" in request.query:
        return request.query["name"][0]
    return request.data["meta"]["name"]


def parse_upload(body, boundary):
    """What a multipart upload holds: an object's metadata, its type and its bytes, all of them."""
    start = b"--" + boundary
    end = b"\r\n" if body.startswith(start + b"\r\n") else b"\n"
    meta, _, rest = body.removeprefix(start + end).partition(end + start + end)
    header, _, content = rest[: rest.rindex(end + start + b"--")].partition(end + end)
    return {
        "meta": json.loads(meta.partition(end + end)[2]),
        "content": content,
        "content-type": header.partition(b":")[2].strip().decode(),
    }


def read_data(handler, query, others=emulator._read_data):
    """A request's data, as the emulator's function gives them."""
    kind, _, boundary = handler.headers.get("Content-Type", "").partition("; boundary=")
    if kind != "multipart/related":
        return others(handler, query)
    body = emulator._decode_raw_data(emulator._read_raw_data(handler), handler)
    return parse_upload(body, boundary.strip('"').encode())


def add_what_lacks():
    """Puts conditions before the emulator's handlers, and uploads in the place of its parser's."""
    emulator._read_data = read_data
    for _, handlers in emulator.HANDLERS:
        if handlers.get("POST") is objects.insert:
            handlers["POST"] = conditional(objects.insert, uploaded)
        if handlers.get("GET") in (objects.get, objects.download):
            handlers["GET"] = with_generation(handlers["GET"])
        if handlers.get("DELETE") is objects.delete:
            handlers["DELETE"] = conditional(objects.delete, lambda r: r.params["object_id"])


class Threads(socketserver.ThreadingMixIn, server.HTTPServer):
    """Clients hold several connections."""

    daemon_threads = True
    request_queue_size = 128


def main():
    """Serves until standard input ends."""
    add_what_lacks()
    storage = Storage(use_memory_fs=True)
    storage.create_bucket(BUCKET, {"name": BUCKET})
    serving = Threads(("127.0.0.1", 0), lambda *given: Handler(storage, *given))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{serving.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

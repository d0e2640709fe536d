"""A server that speaks as much S3 as a client needs to store and read objects, and checks every signature (SigV4).

Objects are written whole or not at all, part by part where the client wants so; each part's MD5 is checked.
"""

import base64
import contextlib
import hashlib
import hmac
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS, SECRET, REGION, BUCKET = "homed-test-access", "homed+test/secret", "eu-test-1", "boards"
_STATUS = {
    "NoSuchKey": 404,
    "NoSuchBucket": 404,
    "NoSuchUpload": 404,
    "SignatureDoesNotMatch": 403,
    "InvalidAccessKeyId": 403,
    "BadDigest": 400,
    "QuotaExceeded": 403,
}


@dataclass
class Stored:
    data: bytes
    etag: str
    meta: Mapping[str, str]


@dataclass
class Store:
    """What it holds, and what was asked. `room` bounds the bytes that it takes; `refusals` of a 503 come first;
    where it `damages`, one bit of each object is another than what came."""

    port: int = 0
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    meta: dict[str, Mapping[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    room: int = 1 << 40
    refusals: int = 0
    damages: bool = False


class Refused(Exception):
    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


@contextlib.contextmanager
def s3() -> Iterator[Store]:
    store = Store()

    class Handler(_Handler):
        held = store

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Store

    def log_message(self, format: str, *args: object) -> None:
        self.held.asked.append(f"{self.command} {self.path}")

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        try:
            # What the client has cut off is no object.
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True
                return
            if self.held.refusals:
                self.held.refusals -= 1
                self._send(503, b"<Error><Code>SlowDown</Code></Error>")
                return
            self._check(body)
            self._send(*self._do(body))
        except Refused as error:
            self._send(_STATUS[error.code], f"<Error><Code>{error.code}</Code></Error>".encode())
        except OSError:
            self.close_connection = True

    def _do(self, body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket != BUCKET:
            raise Refused("NoSuchBucket")
        if not key:
            return 200, self._list(query), {}
        match self.command:
            case "PUT" if "uploadId" in query:
                return self._part(query, body)
            case "PUT":
                self._keep(key, body, hashlib.md5(body).hexdigest(), self._meta())
                return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
            case "POST" if "uploads" in query:
                name = f"upload-{len(self.held.uploads)}"
                self.held.uploads[name] = {}
                self.held.meta[name] = self._meta()
                return 200, _xml("InitiateMultipartUploadResult", Bucket=BUCKET, Key=key, UploadId=name), {}
            case "POST":
                return self._complete(key, query)
            case "DELETE":
                self.held.uploads.pop(query.get("uploadId", ""), None)
                if "uploadId" not in query:
                    self.held.objects.pop(key, None)
                return 204, b"", {}
            case _:
                return self._read(key)

    def _part(self, query: Mapping[str, str], body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        parts = self.held.uploads.get(query["uploadId"])
        if parts is None:
            raise Refused("NoSuchUpload")
        self._make_room(sum(map(len, parts.values())) + len(body))
        parts[int(query["partNumber"])] = body
        return 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def _complete(self, key: str, query: Mapping[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
        parts = self.held.uploads.pop(query["uploadId"], None)
        if parts is None:
            raise Refused("NoSuchUpload")
        ordered = [parts[number] for number in sorted(parts)]
        etag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in ordered)).hexdigest() + f"-{len(parts)}"
        self._keep(key, b"".join(ordered), etag, self.held.meta[query["uploadId"]])
        return 200, _xml("CompleteMultipartUploadResult", Bucket=BUCKET, Key=key, ETag=f'"{etag}"'), {}

    def _keep(self, key: str, data: bytes, etag: str, meta: Mapping[str, str]) -> None:
        self._make_room(len(data))
        if self.held.damages:
            data = data[:-1] + bytes([data[-1] ^ 1])
            etag = hashlib.md5(data).hexdigest()
        self.held.objects[key] = Stored(data, etag, meta)

    def _make_room(self, size: int) -> None:
        if sum(len(each.data) for each in self.held.objects.values()) + size > self.held.room:
            raise Refused("QuotaExceeded")

    def _read(self, key: str) -> tuple[int, bytes, Mapping[str, str]]:
        found = self.held.objects.get(key)
        if found is None:
            raise Refused("NoSuchKey")
        headers = {"ETag": f'"{found.etag}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", **found.meta}
        return 200, found.data, headers

    def _list(self, query: Mapping[str, str]) -> bytes:
        prefix = query.get("prefix", "")
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(each.data)}</Size><ETag>&quot;{each.etag}&quot;</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, each in sorted(self.held.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def _meta(self) -> Mapping[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _check(self, body: bytes) -> None:
        """The signature, and the digests of the body."""
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
            r"SignedHeaders=([^,]+), ?Signature=(\w+)",
            self.headers.get("Authorization", ""),
        )
        if match is None or match[1] != ACCESS or match[3] != REGION:
            raise Refused("InvalidAccessKeyId")
        _, day, region, names, signature = match.groups()
        if not hmac.compare_digest(self._signature(day, region, names), signature):
            raise Refused("SignatureDoesNotMatch")
        given = self.headers.get("Content-MD5")
        if given is not None and base64.b64encode(hashlib.md5(body).digest()).decode() != given:
            raise Refused("BadDigest")
        digest = self.headers.get("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
        if digest not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            raise Refused("BadDigest")

    def _signature(self, day: str, region: str, names: str) -> str:
        url = urlsplit(self.path)
        pairs = sorted(parse_qsl(url.query, keep_blank_values=True))
        request = "\n".join(
            (
                self.command,
                quote(unquote(url.path), safe="/-_.~"),
                "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs),
                *(f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in names.split(";")),
                "",
                names,
                self.headers.get("X-Amz-Content-Sha256", ""),
            )
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers.get('X-Amz-Date', '')}\n{day}/{region}/s3/aws4_request\n{digest}"
        key = f"AWS4{SECRET}".encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.new(key, text.encode(), "sha256").hexdigest()


def _xml(name: str, **fields: str) -> bytes:
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in fields.items())
    return f'<?xml version="1.0"?><{name}>{inner}</{name}>'.encode()

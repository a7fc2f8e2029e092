"""MLflow's server, with artifacts streamed between client and S3.

MLflow's server stores each file in a temporary directory on its way, and its bridge to Flask holds whole bodies in
memory. A few large files, or one slow client, would take all of a container's memory. Here a file passes in chunks of
some kilobytes: what the server holds does not depend on the speed of its clients or the size of their files.

MLflow's own routes and checks come first; they end with the object that ``proxied_s3`` names.
"""

from __future__ import annotations

import asyncio
import mimetypes
import zlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from http import HTTPStatus

import aiohttp
from fastapi import HTTPException
from mlflow.server import app as flask_app
from mlflow.server import otel_api
from mlflow.server.artifact_router import artifact_router
from mlflow.server.fastapi_app import app
from mlflow.server.handlers import _content_disposition_attachment
from mlflow.utils.mime_type_utils import _guess_mime_type
from proxied_s3 import Download, S3Object, Upload
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# An address is used at once; its age counts when a request begins, not when it ends.
SIGNED_SECONDS = 60
# S3 takes 5 GiB in one request, and 10,000 parts.
PART_BYTES = 2**30
MAX_PARTS = 10_000
# Other requests hold parameters, metrics and traces; MLflow reads them whole, and holds them more than once.
MAX_BODY_BYTES = 16 * 2**20
# All together, as MLflow needs many times their size for a moment; small ones are served whoever sends large ones.
MAX_HELD_BYTES = MAX_BODY_BYTES
SMALL_BODY_BYTES = 2**20
# What a client may ask for beyond the object, and what S3 says of it.
ASKED = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
SAID = ("content-length", "content-range", "accept-ranges", "etag", "last-modified")
# Answers that S3 gives to what was asked, not errors of the store.
CONDITIONS = (HTTPStatus.NOT_MODIFIED, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        answer: The answer, in the form of MLflow's API.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        """Make the answer."""
        super().__init__(message)
        self.answer = JSONResponse({"error_code": code, "message": message}, status)


def sign(found: S3Object, operation: str, **more: object) -> str:
    """Give an address at which one operation on the object can be done."""
    place = {"Bucket": found.bucket, "Key": found.key}
    return found.client.generate_presigned_url(operation, Params=place | more, ExpiresIn=SIGNED_SECONDS)


def check(status: int) -> None:
    """Refuse what S3 refused, without its words: they name its address and keys."""
    if status == HTTPStatus.NOT_FOUND:
        raise RefusedError(status, "RESOURCE_DOES_NOT_EXIST", "No such artifact.")
    if status >= HTTPStatus.BAD_REQUEST and status not in CONDITIONS:
        raise RefusedError(HTTPStatus.BAD_GATEWAY, "INTERNAL_ERROR", f"The artifact store answered {status}.")


_session: aiohttp.ClientSession | None = None


def session() -> aiohttp.ClientSession:
    """Give the process's connections to S3: without a limit, so that slow clients keep nobody waiting."""
    global _session
    if _session is None:
        _session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120),
            auto_decompress=False,
            skip_auto_headers=("Content-Type",),
        )
    return _session


class DownloadResponse(Response):
    """An object, or the part of it that the client asks for."""

    def __init__(self, found: Download) -> None:
        """Hold what to send."""
        super().__init__()
        self.found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream it."""
        request = Request(scope)
        method, operation = ("HEAD", "head_object") if request.method == "HEAD" else ("GET", "get_object")
        asked = {name: request.headers[name] for name in ASKED if name in request.headers} | {
            "Accept-Encoding": "identity"
        }
        began = False
        try:
            async with session().request(method, sign(self.found, operation), headers=asked) as answer:
                check(answer.status)
                if answer.status in CONDITIONS:  # S3's words name its keys
                    said = {name: answer.headers[name] for name in SAID[1:] if name in answer.headers}
                    await Response(None, answer.status, said)(scope, receive, send)
                    return
                name = self.found.key.rpartition("/")[2]
                headers = {name: answer.headers[name] for name in SAID if name in answer.headers} | {
                    "content-type": _guess_mime_type(name),
                    "content-disposition": _content_disposition_attachment(name),
                    "x-content-type-options": "nosniff",
                }
                began = True
                await StreamingResponse(answer.content.iter_any(), answer.status, headers)(scope, receive, send)
        except RefusedError as refused:
            await refused.answer(scope, receive, send)
        except (aiohttp.ClientError, TimeoutError):
            if began:  # the client sees that the body ends too early
                raise
            await unreachable().answer(scope, receive, send)


def unreachable() -> RefusedError:
    """Say that S3 doesn't answer."""
    return RefusedError(HTTPStatus.BAD_GATEWAY, "INTERNAL_ERROR", "The artifact store does not answer.")


class Body:
    """A request's body, given in parts of known sizes."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        """Hold the stream."""
        self._chunks = chunks
        self._rest = b""

    async def part(self, size: int) -> AsyncIterator[bytes]:
        """Give the next ``size`` bytes."""
        while size:
            chunk = self._rest or await anext(self._chunks)
            given, self._rest = chunk[:size], chunk[size:]
            size -= len(given)
            if given:
                yield given

    async def put(self, address: str, size: int, headers: dict[str, str]) -> str:
        """Store the next ``size`` bytes, and return S3's tag of them."""
        data = self.part(size) if size else b""
        async with session().put(address, data=data, headers=headers | {"Content-Length": str(size)}) as answer:
            check(answer.status)
            return answer.headers["ETag"]


async def store(found: Upload, request: Request) -> None:
    """Store a request's body as an object: all of it, or nothing."""
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        raise RefusedError(
            HTTPStatus.LENGTH_REQUIRED, "INVALID_PARAMETER_VALUE", "An artifact needs a Content-Length header."
        )
    size, body = int(declared), Body(request.stream())
    kind = mimetypes.guess_type(found.key)[0] or "application/octet-stream"
    if size <= PART_BYTES:
        await body.put(sign(found, "put_object", ContentType=kind), size, {"Content-Type": kind})
        return
    place = {"Bucket": found.bucket, "Key": found.key}
    begun = await asyncio.to_thread(found.client.create_multipart_upload, **place, ContentType=kind)
    place["UploadId"] = begun["UploadId"]
    part_size, parts = max(PART_BYTES, -(-size // MAX_PARTS)), []
    try:
        for number, start in enumerate(range(0, size, part_size), start=1):
            address = sign(found, "upload_part", UploadId=place["UploadId"], PartNumber=number)
            tag = await body.put(address, min(part_size, size - start), {})
            parts.append({"PartNumber": number, "ETag": tag})
        await asyncio.to_thread(found.client.complete_multipart_upload, **place, MultipartUpload={"Parts": parts})
    except BaseException:  # a client that goes away may cancel this task
        await asyncio.shield(asyncio.to_thread(found.client.abort_multipart_upload, **place))
        raise


def too_large() -> RefusedError:
    """Say that a request is larger than what MLflow may hold."""
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "INVALID_PARAMETER_VALUE",
        f"A request may have {MAX_BODY_BYTES} bytes; only artifacts may be larger.",
    )


def decompress(body: bytes, encoding: str) -> bytes:
    """Decompress traces, of which a small request may hold gigabytes, up to what a request may have."""
    forms = {"gzip": [zlib.MAX_WBITS | 16], "deflate": [zlib.MAX_WBITS, -zlib.MAX_WBITS]}
    for bits in forms.get(encoding, []):
        stream = zlib.decompressobj(bits)
        try:
            content = stream.decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error:
            continue
        if len(content) > MAX_BODY_BYTES:
            raise too_large()
        if stream.eof and not stream.unused_data:
            return content
    raise HTTPException(HTTPStatus.BAD_REQUEST, f"The body is not compressed with {encoding}.")


def is_streamed(scope: Scope) -> bool:
    """Say whether a route of artifacts serves a request: Flask, which reads bodies whole, gets what only looks so."""
    return any(route.matches(scope)[0] is Match.FULL for route in artifact_router.routes)


class LimitedBody:
    """Refuses large bodies that MLflow would hold in memory: all but those of artifacts."""

    def __init__(self, app: ASGIApp) -> None:
        """Hold the application."""
        self.app = app
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it comes."""
        if scope["type"] != "http" or (scope["method"] == "PUT" and is_streamed(scope)):
            await self.app(scope, receive, send)
            return
        seen, more, began = 0, True, False

        async def counted() -> Message:
            nonlocal seen, more
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self.held += size
            more = message.get("more_body", False)
            if seen > MAX_BODY_BYTES:
                raise too_large()
            if seen > SMALL_BODY_BYTES and self.held > MAX_HELD_BYTES:
                self.held -= seen  # at once, so that there is room for those that are under way
                seen = 0
                raise RefusedError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "TEMPORARILY_UNAVAILABLE", "Too many large requests at once."
                )
            return message

        async def noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except Exception as refused:
            while isinstance(refused, ExceptionGroup):  # made by those between
                refused = refused.exceptions[0]
            if began or not isinstance(refused, RefusedError):
                raise
            self.held -= seen
            seen = 0
            while more:  # a client that is still sending would not see the answer
                more = (await receive()).get("more_body", False)
            await refused.answer(scope, receive, send)
        finally:
            self.held -= seen


# Flask's handlers run in a thread with a copy of the request's context: the list is the same in both.
named: ContextVar[list[Download]] = ContextVar("named")


class FromFlask:
    """Streams the objects that Flask's handlers name, in place of their answers."""

    def __init__(self, app: ASGIApp) -> None:
        """Hold the bridge to Flask, which would hold a whole file for a slow client."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the answer on, unless an object was named."""
        found: list[Download] = []
        named.set(found)

        async def passed(message: Message) -> None:
            if not found:
                await send(message)

        await self.app(scope, receive, passed)
        if found:
            await DownloadResponse(found[0])(scope, receive, send)


@flask_app.errorhandler(Download)
def name_object(found: Download) -> tuple[str, int]:
    """Name the object to ``FromFlask``, which drops this answer."""
    named.get().append(found)
    return "", HTTPStatus.OK


@app.exception_handler(Download)
async def send_object(_request: Request, found: Download) -> Response:
    """Send the object."""
    return DownloadResponse(found)


@app.exception_handler(Upload)
async def store_object(request: Request, found: Upload) -> Response:
    """Store the object."""
    try:
        await store(found, request)
    except RefusedError as refused:
        return refused.answer
    except (aiohttp.ClientError, TimeoutError):
        return unreachable().answer
    return Response()


otel_api.decompress_otlp_body = decompress
app.add_middleware(LimitedBody)
flask_mount = app.router.routes[-1]
flask_mount.app = FromFlask(flask_mount.app)

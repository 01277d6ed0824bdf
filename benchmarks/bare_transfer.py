"""The bare handlers that `benchmarks.transfer` compares with: `python -m benchmarks.bare_transfer serve --port PORT`.

PUT streams to a file and hashes, GET is a `FileResponse`; in the directory that `BURNISH_DATA_DIR` names.
"""

import hashlib
import os
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app.serve import uvicorn_config

FOLDER = Path(os.environ.get("BURNISH_DATA_DIR", "."))


async def healthz(request: Request) -> Response:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


async def put(request: Request) -> Response:
    """Store and hash a body."""
    digest = hashlib.sha256()
    with (FOLDER / "received").open("wb") as file:
        async for chunk in request.stream():
            digest.update(chunk)
            file.write(chunk)
    return JSONResponse({"sha256": digest.hexdigest()})


async def get(request: Request) -> Response:
    """The file that `benchmarks.transfer` made."""
    return FileResponse(FOLDER / "source")


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/file", put, methods=["PUT"]),
        Route("/file", get, methods=["GET"]),
    ]
)

if __name__ == "__main__":
    uvicorn.Server(uvicorn_config(app, "127.0.0.1", int(sys.argv[3]))).run()

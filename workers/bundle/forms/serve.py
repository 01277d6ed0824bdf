#!/usr/bin/env python3
"""Serve the engine of the bundle beside this file over HTTP. Needs the engine's runtime and numpy, and nothing else.

    python serve.py [--host 127.0.0.1] [--port 8080] [--name NAME]

It speaks the Open Inference Protocol, version 2, in JSON (https://github.com/open-inference/open-inference-protocol): `GET
/v2/health/live`, `/v2/health/ready`, `/v2/models/NAME`, and `POST /v2/models/NAME/infer`. One request runs at a time. Numbers
that are not finite come back as null. It starts only where the engine gives the outputs that the bundle promises. There is no
authentication and no TLS: put it behind something that has them.
"""

import argparse
import importlib.util
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundle"
MOST_BYTES = 64 * 1024 * 1024  # of a request
SOCKET_SECONDS = 30.0  # without a byte
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BYTES": "str",
}  # fmt: skip


class Refused(Exception):
    """A request that cannot be answered; the message says why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Model:
    """The bundle's engine."""

    def __init__(self, bundle: Path, name: str | None):
        spec = importlib.util.spec_from_file_location("bundle_run", bundle / "run.py")
        if spec is None or spec.loader is None:
            raise SystemExit(f"{bundle} holds no bundle")
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        self.manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.name = name or "model"
        self.inputs = {entry["name"]: entry for entry in self.manifest["signature"]["inputs"]}
        self.outputs = {entry["name"]: entry for entry in self.manifest["signature"]["outputs"]}
        self._run = program.load(self.manifest)
        self._turn = threading.Lock()
        self.checks = program.check(self.manifest, self._run)

    def infer(self, request: Any) -> dict[str, Any]:
        """The answer to a request of the protocol. Raises Refused."""
        if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
            raise Refused(400, "the body is an object with the list `inputs`")
        feeds: dict[str, Any] = {}
        for given in request["inputs"]:
            name, array = self._read(given)
            if name in feeds:
                raise Refused(400, f"input {name!r} comes twice")
            feeds[name] = array
        if missing := sorted(set(self.inputs) - set(feeds)):
            raise Refused(400, f"input {', '.join(map(repr, missing))} is missing")
        wanted = self._wanted(request.get("outputs"))
        with self._turn:
            try:
                found = self._run(feeds)
            except (
                Exception
            ) as error:  # whatever the runtime raises: the request's shapes may not fit each other
                raise Refused(400, f"the engine refuses these inputs: {str(error)[:500]}") from error
        answer = {
            "model_name": self.name,
            "outputs": [written(name, np.asarray(found[name])) for name in wanted],
        }
        return {**answer, "id": request["id"]} if "id" in request else answer

    def described(self) -> dict[str, Any]:
        """The model's metadata."""
        return {
            "name": self.name,
            "versions": [],
            "platform": self.manifest["target"]["runtime"],
            "inputs": [_metadata(entry) for entry in self.inputs.values()],
            "outputs": [_metadata(entry) for entry in self.outputs.values()],
        }

    def _read(self, given: Any) -> tuple[str, Any]:
        if not isinstance(given, dict) or given.get("name") not in self.inputs:
            named = given.get("name") if isinstance(given, dict) else given
            raise Refused(400, f"there is no input {named!r}: there are {', '.join(self.inputs)}")
        name = given["name"]
        entry = self.inputs[name]
        dtype = DATATYPES.get(str(given.get("datatype")))
        if dtype is None or _protocol_type(entry["dtype"]) != given["datatype"]:
            raise Refused(400, f"input {name!r} is of datatype {_protocol_type(entry['dtype'])}")
        shape = given.get("shape")
        if not isinstance(shape, list) or not all(type(dim) is int and dim >= 0 for dim in shape):
            raise Refused(400, f"input {name!r} has no shape, a list of sizes")
        fits = len(shape) == len(entry["shape"]) and all(
            wanted in (None, dim) for wanted, dim in zip(entry["shape"], shape, strict=True)
        )
        if not fits:
            raise Refused(400, f"input {name!r} has the shape {entry['shape']}, given was {shape}")
        try:
            kind = object if dtype == "str" else np.dtype(dtype)
            array = np.array(given.get("data"), dtype=kind).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise Refused(
                400, f"the data of input {name!r} is not {given['datatype']} {shape}: {error}"
            ) from error
        return name, array

    def _wanted(self, given: Any) -> list[str]:
        if given is None:
            return list(self.outputs)
        names = (
            [one.get("name") if isinstance(one, dict) else None for one in given]
            if isinstance(given, list)
            else [None]
        )
        if unknown := [name for name in names if name not in self.outputs]:
            raise Refused(400, f"there is no output {unknown[0]!r}: there are {', '.join(self.outputs)}")
        return [str(name) for name in names]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = SOCKET_SECONDS
    model: Model

    def do_GET(self) -> None:
        """Health and metadata."""
        model = self.model
        answers: dict[str, Any] = {
            "/v2": {"name": "burnish", "version": "1", "extensions": []},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"/v2/models/{model.name}": model.described(),
            f"/v2/models/{model.name}/ready": {"name": model.name, "ready": True},
        }
        path = self.path.partition("?")[0].rstrip("/")
        if path in answers:
            self._answer(200, answers[path])
        else:
            self._answer(404, {"error": f"there is nothing at {path[:200]}"})

    def do_POST(self) -> None:
        """Inference."""
        try:
            request = self._body()
            if self.path.partition("?")[0] != f"/v2/models/{self.model.name}/infer":
                raise Refused(404, f"there is nothing at {self.path[:200]}")
            self._answer(200, self.model.infer(request))
        except Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _body(self) -> Any:
        """The request's JSON. Raises Refused; what was not read is not read any more."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            self.close_connection = True
            raise Refused(411, "give the Content-Length")
        if int(length) > MOST_BYTES:
            self.close_connection = True
            raise Refused(413, f"a request has at most {MOST_BYTES} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {type(error).__name__}") from error

    def _answer(self, status: int, said: Any) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A line a request on standard error; nothing of it steers a terminal."""
        line = (format % args).encode("ascii", "backslashreplace").decode()
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)
        print(shown, file=sys.stderr, flush=True)  # noqa: T201


def _protocol_type(dtype: str) -> str:
    return "BYTES" if dtype == "string" else next(name for name, own in DATATYPES.items() if own == dtype)


def _metadata(entry: dict[str, Any]) -> dict[str, Any]:
    shape = [-1 if dim is None else dim for dim in entry["shape"]]
    return {"name": entry["name"], "datatype": _protocol_type(entry["dtype"]), "shape": shape}


def written(name: str, value: Any) -> dict[str, Any]:
    """An array as the protocol has it: {name, shape, datatype, data}, the data flat."""
    said = {"name": name, "shape": list(value.shape)}
    if value.dtype.kind in "OUS":
        return {**said, "datatype": "BYTES", "data": [str(one) for one in value.ravel()]}
    data = value.ravel().tolist()
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        data = [one if np.isfinite(one) else None for one in data]
    return {**said, "datatype": _protocol_type(value.dtype.name), "data": data}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=8080, help="0: a free one, which is printed")
    parser.add_argument("--name", help="what to call the model (default: model)")
    arguments = parser.parse_args()
    model = Model(BUNDLE, arguments.name)
    if wrong := [entry["output"] for entry in model.checks if not entry["ok"]]:
        told = f"the engine does not give the promised outputs here: {', '.join(wrong)}"
        print(told, file=sys.stderr)  # noqa: T201
        return 1
    handler = type("BundleHandler", (Handler,), {"model": model})
    with ThreadingHTTPServer((arguments.host, arguments.port), handler) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        address = f"http://{arguments.host}:{server.server_port}/v2/models/{model.name}"
        print(address, flush=True)  # noqa: T201
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

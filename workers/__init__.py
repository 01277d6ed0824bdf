"""Burnish, the hands: claims jobs and does them, each attempt in a child process of its own."""

import os

# on import, ONNX Runtime writes an identity and a database of events to report into the home folder; read before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

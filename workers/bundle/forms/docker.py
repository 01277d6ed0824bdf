"""An engine with a small server, and the Dockerfile of an image that runs it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workers.bundle.forms.contents import copy_bundle, requirements_text
from workers.bundle.forms.serve import written

PORT = 8080
USER = 10001  # nobody's
DOCKERFILE = """\
# Packages for NVIDIA GPUs bring CUDA's libraries; the host needs the driver and NVIDIA's container toolkit.
FROM python:{python}-slim

WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY serve.py .
COPY bundle bundle

USER {user}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE {port}
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/v2/health/ready', timeout=2)"]
CMD ["python", "serve.py", "--host", "0.0.0.0", "--port", "{port}"]
"""
README = """\
# {name}: a server

```
docker build --tag {tag} .
docker run --rm --publish {port}:{port} --read-only{gpus} {tag}
curl --json @request.json http://localhost:{port}/v2/models/model/infer
```

`serve.py` speaks the Open Inference Protocol in JSON; `request.json` holds one request, with the bundle's sample inputs. Without
Docker: `pip install --requirement requirements.txt`, then `python serve.py`. There is no authentication and no TLS in it.

The engine is valid where `bundle/manifest.json` says: on another processor or GPU build it anew.
"""


def write(folder: Path, bundle: Path, manifest: dict[str, Any], name: str) -> None:
    """Write `Dockerfile`, `serve.py`, `requirements.txt`, `request.json`, `README.md` and the bundle below `folder`."""
    copy_bundle(bundle, folder / "bundle")
    shutil.copyfile(Path(__file__).with_name("serve.py"), folder / "serve.py")
    python = ".".join(manifest["versions"]["python"].split(".")[:2])
    (folder / "Dockerfile").write_text(
        DOCKERFILE.format(python=python, user=USER, port=PORT), encoding="utf-8"
    )
    (folder / "requirements.txt").write_text(requirements_text(manifest), encoding="utf-8")
    (folder / "request.json").write_text(_request(bundle, manifest), encoding="utf-8")
    gpus = " --gpus all" if manifest["validity"].get("device") == "cuda" else ""
    tag = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip(
        "-"
    )
    text = README.format(name=name, tag=tag or "model", port=PORT, gpus=gpus)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _request(bundle: Path, manifest: Mapping[str, Any]) -> str:
    """The sample inputs as a request of the protocol."""
    with np.load(bundle / manifest["samples"]["file"], allow_pickle=False) as stored:
        inputs = [
            written(name.removeprefix("input:"), stored[name]) for name in stored if name.startswith("input:")
        ]
    return json.dumps({"inputs": inputs}) + "\n"

# Burnish's images: `docker build --target api|worker-cpu|worker-gpu|worker-horovod .`
#
#   api         the HTTP service, the commands and the migrations; no torch, no onnx
#   worker-cpu  a worker with ONNX Runtime and torch for CPUs
#   worker-gpu  a worker with CUDA builds of both; the host brings the driver and the container toolkit
#   worker-horovod  worker-cpu with Horovod, for trainings by `backend: horovod`
#
# PIP_ARGS is given to every pip that installs packages: an index of your own, or one with CPU builds of torch.
# Run workers with an init process (`docker run --init`, `init: true`), which reaps what their children leave.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/burnish/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/burnish && pip install pip==26.3
COPY requirements/ requirements/

FROM build AS package
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
COPY workers/ workers/
COPY migrations/ migrations/
# hadolint ignore=SC2086
RUN pip wheel $PIP_ARGS --no-deps --wheel-dir /wheels .

# torch goes first, as in the Makefile: the rest then finds the build that PIP_ARGS chose
FROM build AS build-api
# hadolint ignore=SC2086
RUN pip install $PIP_ARGS --requirement requirements/api.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl

FROM build AS build-worker-cpu
# hadolint ignore=SC2046,SC2086
RUN pip install $PIP_ARGS --constraint requirements/worker.txt $(grep '^torch==' requirements/worker.txt) \
    && pip install $PIP_ARGS --requirement requirements/worker.txt \
    && pip install $PIP_ARGS --no-deps --requirement requirements/zoo.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl

FROM build AS build-worker-gpu
# hadolint ignore=SC2086
RUN pip install $PIP_ARGS --requirement requirements/worker-gpu.txt \
    && pip install $PIP_ARGS --no-deps --requirement requirements/zoo.txt
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl

FROM build-worker-cpu AS build-worker-horovod
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
COPY scripts/horovod.py scripts/horovod.py
# hadolint ignore=SC2086
RUN python scripts/horovod.py wheel /tmp/horovod $PIP_ARGS && pip install --no-deps /tmp/horovod/*.whl

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS runtime
# directories that a fresh volume takes its owner from
RUN groupadd --gid 10001 burnish \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin burnish \
    && install --directory --owner burnish --group burnish --mode 0750 /data /scratch
ENV PATH=/opt/burnish/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    BURNISH_DATA_DIR=/data \
    BURNISH_SCRATCH_DIR=/scratch
WORKDIR /data
USER 10001:10001

FROM runtime AS api
COPY --from=build-api /opt/burnish /opt/burnish
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["burnish", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker-cpu
COPY --from=build-worker-cpu /opt/burnish /opt/burnish
CMD ["burnish", "worker"]

FROM runtime AS worker-horovod
COPY --from=build-worker-horovod /opt/burnish /opt/burnish
CMD ["burnish", "worker"]

FROM runtime AS worker-gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker-gpu /opt/burnish /opt/burnish
CMD ["burnish", "worker"]

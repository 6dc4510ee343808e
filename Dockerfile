# The image of a run: `launch/gke.sh build`, or
#   docker build --build-arg=EXTRA=cuda --tag=udon_jax .
#   docker run --gpus=all udon_jax --config=configs/quickstart.py --workdir=...
FROM python:3.12-slim

# tpu, cuda or cpu
ARG EXTRA=tpu

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
# What is installed changes less often than the code: a layer of its own.
COPY setup.py pyproject.toml constraints.txt README.md ./
COPY udon_jax/__init__.py udon_jax/
RUN case "$EXTRA" in \
      tpu | cuda) extras="data,viz,$EXTRA" ;; \
      cpu) extras="data,viz" ;; \
      *) echo "EXTRA=$EXTRA is none of tpu, cuda, cpu" >&2; exit 2 ;; \
    esac \
 && pip install --editable ".[$extras]" --constraint constraints.txt
COPY udon_jax udon_jax
COPY configs configs

RUN useradd --create-home --uid=1000 udon
USER udon
# An exec form: SIGTERM reaches the run, which saves.
ENTRYPOINT ["python", "-m", "udon_jax.main"]

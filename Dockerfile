# infer.py with its networks. Photos lie in the folder that is mounted as /images; docs/images.md shows how.
#   docker build -t smfdm .                                   for CPUs
#   docker build -t smfdm --build-arg DEVICE=cuda .           for NVIDIA GPUs: run it with --gpus all
#   --build-arg REQUIREMENTS=requirements-web.txt             with the web page
FROM python:3.13-slim

ARG DEVICE=cpu
WORKDIR /app
COPY requirements.txt .
# The torch of PyPI computes with CUDA too, and is much larger. Triton compiles its launchers with gcc.
RUN set -e; \
    case "$DEVICE" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple; \
            apt-get update; \
            apt-get install -y --no-install-recommends gcc libc6-dev; \
            rm -rf /var/lib/apt/lists/* ;; \
        *) echo "DEVICE is $DEVICE, but must be cpu or cuda" >&2; exit 2 ;; \
    esac; \
    pip install --no-cache-dir --index-url "$index" "$(grep '^torch==' requirements.txt)"; \
    pip install --no-cache-dir -r requirements.txt

ARG REQUIREMENTS=requirements.txt
COPY requirements-*.txt ./
RUN pip install --no-cache-dir -r "$REQUIREMENTS"

COPY . .
RUN useradd --create-home smfdm && mkdir /images && chown smfdm /images
USER smfdm
# With `docker run --user`, a user without a name and a home: caches go where anyone may write.
ENV HOME=/tmp USER=smfdm PYTHONPATH=/app
WORKDIR /images
EXPOSE 7860
ENTRYPOINT ["python", "/app/infer.py"]

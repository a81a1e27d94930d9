# The server on a CPU. docs/serving.md says how to run it; the steps below are tried in a clean environment by
# tools/try_image.sh, so keep them to what pip and a shell can do.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY core core
COPY langchain_bgem3 langchain_bgem3
COPY llamaindex_bgem3 llamaindex_bgem3
ARG EXTRAS=server
RUN python -m venv /opt/bgem3 \
    && /opt/bgem3/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 bgem3 \
    && install -d -o bgem3 -g bgem3 /models /data
COPY --from=build /opt/bgem3 /opt/bgem3
ENV PATH=/opt/bgem3/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    BGEM3_CACHE=/models/bgem3 \
    BGEM3_MODEL=BAAI/bge-m3 \
    BGEM3_DB=/data
USER 10001
# /models keeps what was downloaded: with it filled, HF_HUB_OFFLINE=1 needs no network. /data keeps the collections.
VOLUME ["/models", "/data"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ready', timeout=2)"]
ENTRYPOINT ["bgem3", "serve"]
# A container is reached through the port it publishes, which compose.yaml binds to loopback.
CMD ["--host", "0.0.0.0"]

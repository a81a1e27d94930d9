#!/usr/bin/env bash
# What the Dockerfile does, without a container engine: the same files, the same install command and the same check of
# health, in a clean environment.   Usage: tools/try_image.sh [CHECKPOINT]     (needs a package index)
set -euo pipefail
cd "$(dirname "$0")/.."
checkpoint=$(realpath "${1:-examples/bge-m3-mini}")
work=$(mktemp -d)
trap 'kill "${server:-0}" 2>/dev/null || true; rm -rf "$work"' EXIT

mkdir "$work/src"
cp -r pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md core langchain_bgem3 llamaindex_bgem3 "$work/src"
cd "$work/src"
python3 -m venv "$work/bgem3"
"$work/bgem3/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt ".[server]"
cd "$work"
rm -rf src

env -i PATH="$work/bgem3/bin:/usr/bin:/bin" HOME="$work" HF_HOME="$work/models" BGEM3_CACHE="$work/models/bgem3" \
  HF_HUB_OFFLINE=1 BGEM3_MODEL="$checkpoint" BGEM3_DB="$work/data" bgem3 serve --host 127.0.0.1 --port 8089 &
server=$!
check="import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/ready', timeout=2)"
for _ in $(seq 60); do
  if "$work/bgem3/bin/python" -c "$check" 2>/dev/null; then
    curl -fsS http://127.0.0.1:8089/ | grep -q "<title>bgem3</title>"
    curl -fsS http://127.0.0.1:8089/v1/embeddings -H 'Content-Type: application/json' -d '{"input": "tea"}' >/dev/null
    echo "healthy; $(du -sm "$work/bgem3" | cut -f1) MB installed"
    exit 0
  fi
  sleep 1
done
echo "not healthy after 60 s" >&2
exit 1

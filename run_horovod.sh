#!/usr/bin/env bash
# Runs a program of tfadv on several workers: ./run_horovod.sh -np 2 --flagfile=flags/quickstart.flags
# This only finds Python for tools/run_horovod.py; see `./run_horovod.sh --help`.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=$HERE/.venv/bin/python
if [ ! -x "$PYTHON" ]; then PYTHON=python3; fi
exec "$PYTHON" "$HERE/tools/run_horovod.py" "$@"

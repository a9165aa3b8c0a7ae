#!/usr/bin/env bash
# Adds the libraries that benchmarks/ measures beside ours to .venv, once. `make benchmarks` calls it
# after tools/setup.sh, which installed tfadv. They share its pinned versions, so nothing that is there
# changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAMP=.venv/.benchmarks-done
LOG=.venv/setup-benchmarks.log
# setup.sh's stamp holds what .venv was made from: these files, the Python, the TensorFlow.
if cmp -s .venv/.setup-done "$STAMP"; then exit 0; fi

echo "Installing the libraries to compare with (a minute)..."
if ! .venv/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off \
  -c requirements/constraints.txt "tfadv[benchmarks]" >"$LOG" 2>&1; then
  tail -n 30 "$LOG" >&2
  echo "setup: the extra benchmarks failed to install; all of it is in $LOG" >&2
  exit 1
fi
cp .venv/.setup-done "$STAMP"

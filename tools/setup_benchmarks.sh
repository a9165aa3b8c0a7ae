#!/usr/bin/env bash
# Installs the libraries that benchmarks/ compares with into .venv, once. `make benchmarks` calls it
# after tools/setup.sh, which installs tfadv. All versions are pinned in the same file, so nothing
# that is already installed changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAMP=.venv/.benchmarks-done
LOG=.venv/setup-benchmarks.log
# The stamp of setup.sh changes with its files, Python and TensorFlow.
if cmp -s .venv/.setup-done "$STAMP"; then exit 0; fi

echo "Installing the libraries to compare with (a minute)..."
if ! .venv/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off \
  -c requirements/constraints.txt "tfadv[benchmarks]" >"$LOG" 2>&1; then
  tail -n 30 "$LOG" >&2
  echo "setup: the extra benchmarks failed to install; all of it is in $LOG" >&2
  exit 1
fi
cp .venv/.setup-done "$STAMP"

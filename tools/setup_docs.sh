#!/usr/bin/env bash
# Installs what builds the documentation into .venv-docs, once. `make docs` calls it. That
# environment has neither TensorFlow nor tfadv, so it is set up in seconds.
#
#   PYTHON=python3.12    which Python (python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv-docs
LOG=$VENV/setup.log
STAMP=$VENV/.setup-done
KEY=$("${PYTHON:-python3}" --version && cat requirements/docs.txt)
if [ "$(cat "$STAMP" 2>/dev/null)" = "$KEY" ]; then exit 0; fi

echo "Installing MkDocs (half a minute)..."
rm -rf "$VENV"
mkdir "$VENV"
if ! { "${PYTHON:-python3}" -m venv "$VENV" && "$VENV/bin/python" -m pip \
  --disable-pip-version-check --no-input install --progress-bar off -r requirements/docs.txt; } \
  >"$LOG" 2>&1; then
  tail -n 30 "$LOG" >&2
  echo "setup: MkDocs failed to install; all of it is in $LOG" >&2
  exit 1
fi
echo "$KEY" >"$STAMP"

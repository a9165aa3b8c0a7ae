#!/usr/bin/env bash
# Sets up .venv: Python, pinned dependencies, TensorFlow, tfadv itself, Horovod. `make setup` calls it.
#
#   TENSORFLOW=cpu|gpu   which TensorFlow (cpu)
#   PYTHON=python3.12    which Python (python3, or the newest one that TensorFlow supports)
#   HOROVOD_...          passed on to tools/build_horovod.sh
#   HOROVOD=off          leaves Horovod out, which takes most of the time, until the next call
#
# A .venv keeps its TENSORFLOW and HOROVOD_... until they are given again (HOROVOD_GPU_OPERATIONS=
# unsets one): `make quickstart` after `make setup TENSORFLOW=gpu` stays on the GPU.
#
# The script reports everything that is missing on the machine before it downloads anything. It
# returns at once if everything is set up for the same files and choices, and continues after an
# interruption.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=$PWD/.venv
CHOICES=$VENV/.choices
if [ -f "$CHOICES" ]; then
  while IFS='=' read -r NAME VALUE; do
    [ -n "${!NAME+given}" ] || export "$NAME=$VALUE"
  done <"$CHOICES"
fi
TENSORFLOW=${TENSORFLOW:-cpu}
STAMP=$VENV/.setup-done
export SETUP_LOG=$VENV/setup.log

fail() {
  echo "setup: $*" >&2
  exit 1
}

chosen() {
  env | grep -E '^HOROVOD_(WITH|WITHOUT|GPU|CPU_OPERATIONS|NCCL|CUDA|ROCM|MPI|BUILD|ALLOW|DEBUG)[A-Z_]*=.' | sort
}

case $TENSORFLOW in cpu | gpu) ;; *) fail "TENSORFLOW must be cpu or gpu; received $TENSORFLOW" ;; esac
HOROVOD=${HOROVOD:-on}
case $HOROVOD in on | off) ;; *) fail "HOROVOD must be on or off; received $HOROVOD" ;; esac

# TensorFlow 2.21 has wheels for these versions; setup.py says the same.
supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
  supported "$PYTHON" || fail "PYTHON must be a Python from 3.11 to 3.13 (TensorFlow 2.21 has no other); received $PYTHON"
else
  for PYTHON in python3 python3.13 python3.12 python3.11 none; do
    if supported "$PYTHON"; then break; fi
  done
  [ "$PYTHON" != none ] ||
    fail "Python from 3.11 to 3.13 is missing (TensorFlow 2.21 has no other): apt-get install python3.11 python3.11-venv, or set PYTHON"
fi

# Python, its location and TensorFlow, none of which an existing .venv can change.
BASE="$("$PYTHON" -c 'import sys; print(sys.version.split()[0], sys.base_prefix)') $VENV $TENSORFLOW"
KEY=$({
  echo "$BASE"
  cat setup.py requirements/constraints.txt tools/setup.sh tools/build_horovod.sh
  chosen
} | sha256sum || true)
DONE=$(cat "$STAMP" 2>/dev/null || true)
if [ "$HOROVOD" = off ] && [ "$DONE" != "$KEY" ]; then KEY="$KEY without Horovod"; fi
if [ "$DONE" = "$KEY" ] && [ -x "$VENV/bin/python" ]; then exit 0; fi

MISSING=0
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
  VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  echo "setup: Python's venv module is missing: apt-get install python$VERSION-venv" >&2
  MISSING=1
fi
[ $HOROVOD = off ] || tools/build_horovod.sh --check || MISSING=1
[ $MISSING = 0 ] || exit 1

quietly() {
  "$@" >>"$SETUP_LOG" 2>&1 && return
  tail -n 30 "$SETUP_LOG" >&2
  fail "failed; all of it is in $SETUP_LOG"
}

pip() {
  quietly "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@" \
    --progress-bar off -c requirements/constraints.txt
}

rm -f "$STAMP"
if [ "$(cat "$VENV/.base" 2>/dev/null)" != "$BASE" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
  if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ ! -e "$VENV/setup.log" ]; then
    fail "$VENV exists but is no virtual environment of Python: move it away"
  fi
  rm -rf "$VENV"
  mkdir "$VENV"
  echo "Making .venv with $("$PYTHON" --version)..."
  quietly "$PYTHON" -m venv "$VENV"
  echo "$BASE" >"$VENV/.base"
fi
if [ "$TENSORFLOW" = cpu ] && [ -e /dev/nvidia0 ]; then
  echo "This machine has a GPU; \`make setup TENSORFLOW=gpu\` would use it."
fi

echo "Installing TensorFlow ($TENSORFLOW) and tfadv's other requirements (about a minute)..."
# setuptools first and without isolation, so that the pinned version builds tfadv.
pip install 'setuptools<81' wheel
pip install --no-build-isolation -e ".[$TENSORFLOW,test,quickstart]"
[ $HOROVOD = off ] || PYTHON=$VENV/bin/python tools/build_horovod.sh

{ echo "TENSORFLOW=$TENSORFLOW"; chosen || true; } >"$CHOICES"
# Written last: without it the next call repeats everything above.
echo "$KEY" >"$STAMP"
echo "tfadv is set up in .venv."

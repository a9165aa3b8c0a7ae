#!/usr/bin/env bash
# Builds Horovod from its released sources against the TensorFlow of an environment, and installs it.
#
#   tools/build_horovod.sh             into the active environment, or else into ./.venv
#   PYTHON=/path/to/python tools/build_horovod.sh
#   tools/build_horovod.sh --check     only checks that the compilers are there
#
# `make setup` calls it. By default: Gloo over TCP, no MPI, no NCCL. What these variables say is
# passed on to Horovod's own build, so a cluster builds by the same script:
#
#   HOROVOD_GPU_OPERATIONS=NCCL        reduce on the GPUs; with HOROVOD_CUDA_HOME, HOROVOD_NCCL_HOME,
#                                      HOROVOD_NCCL_INCLUDE, _LIB, HOROVOD_NCCL_LINK=SHARED|STATIC,
#                                      HOROVOD_BUILD_CUDA_CC_LIST=80,90
#   HOROVOD_WITH_MPI=1                 start and reduce by MPI as well
#   HOROVOD_WITHOUT_GLOO=1             leave Gloo out
#
# Only the default was run here; NCCL was compiled and linked, never run; MPI was not tried.
# NVIDIA's NCCL package has a libnccl.so.2 alone: link it as libnccl.so in a folder of your own.
#
# The built wheel is kept under ${TFADV_CACHE:-~/.cache/tfadv}, by what it was built for (Horovod,
# TensorFlow, Python, processor, options), so a second clone on this machine takes seconds instead
# of minutes. `make clean-cache` removes it.
set -euo pipefail

HOROVOD=0.28.1
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CONSTRAINTS=$HERE/requirements/constraints.txt

fail() {
  echo "build_horovod: $*" >&2
  exit 1
}

MISSING=0
need() { # program, what it is, Debian's package
  command -v "$1" >/dev/null && return
  echo "build_horovod: $1 ($2) is missing: apt-get install $3" >&2
  MISSING=1
}

# Also where a kept wheel would make them unnecessary: a set-up that needs them should say so on
# every machine, not only on the first.
need "${CXX:-g++}" "the C++ compiler" g++
need "${HOROVOD_CMAKE:-cmake}" "the build tool of Horovod" cmake
need make "the build tool of Horovod" make
[ $MISSING = 0 ] || exit 1
if [ "${1:-}" = --check ]; then exit 0; fi
[ $# = 0 ] || fail "unknown argument $1; the only one is --check"

if [ -z "${PYTHON:-}" ]; then
  if [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
    PYTHON=${VIRTUAL_ENV:-$CONDA_PREFIX}/bin/python
  elif [ -x "$HERE/.venv/bin/python" ]; then
    PYTHON=$HERE/.venv/bin/python
  else
    fail "no environment: activate one, run \`make setup\`, or set PYTHON"
  fi
fi

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
LOG=${SETUP_LOG:-$WORK/log}

# Everything that pip and the compilers say goes to the log; its end is shown where one fails.
quietly() {
  "$@" >>"$LOG" 2>&1 && return
  tail -n 30 "$LOG" >&2
  if [ -n "${SETUP_LOG:-}" ]; then fail "failed; all of it is in $LOG"; fi
  fail "failed"
}

pip() {
  quietly "$PYTHON" -m pip --disable-pip-version-check --no-input "$@"
}

export TF_CPP_MIN_LOG_LEVEL=3
if ! "$PYTHON" - >"$WORK/facts" 2>"$WORK/error" <<'EOF'; then
import platform
import sys

import tensorflow as tf

print(tf.version.VERSION)
print(tf.sysconfig.get_include())
print(sys.prefix)
print(tf.version.GIT_VERSION, tf.version.COMPILER_VERSION, tf.test.is_built_with_cuda())
print(sys.implementation.cache_tag, platform.system(), platform.machine())
EOF
  tail -n 1 "$WORK/error" >&2
  fail "no TensorFlow in $PYTHON; install tfadv[cpu] or tfadv[gpu] first"
fi
{
  read -r TENSORFLOW
  read -r INCLUDE
  read -r PREFIX
} <"$WORK/facts"

# Horovod's own switches. A variable that is set but empty would count as set in its CMake files.
export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
if [ "${HOROVOD_WITHOUT_GLOO:-}" != 1 ]; then export HOROVOD_WITH_GLOO=1; fi
if [ "${HOROVOD_WITH_MPI:-}" != 1 ]; then export HOROVOD_WITHOUT_MPI=1; fi

# What the wheel depends on. Horovod compiles for this machine's AVX, FMA and F16C where there are
# such, so a home folder that differing machines share needs the three in the key.
KEY=$({
  echo "horovod $HOROVOD"
  tail -n 2 "$WORK/facts" && echo "$TENSORFLOW"
  grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null | grep -oE '\b(avx|fma|f16c)\b' | sort
  env | grep -E '^HOROVOD_(WITH|WITHOUT|GPU|CPU_OPERATIONS|NCCL|CUDA|ROCM|MPI|BUILD|ALLOW|DEBUG)' | sort
  env | grep -E '^(CXX|CXXFLAGS|CUDA_HOME)=' | sort
} | sha256sum | cut -c1-16 || true)
CACHE=${TFADV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tfadv}/horovod/$KEY
INSTALLED=$PREFIX/.horovod-key

works() {
  "$PYTHON" - >>"$LOG" 2>&1 <<'EOF'
import os

import horovod.tensorflow as hvd

hvd.init()
assert (hvd.rank(), hvd.size()) == (0, 1)
if os.environ.get("HOROVOD_GPU_OPERATIONS") == "NCCL":
    assert hvd.nccl_built(), "Horovod was built without NCCL"
EOF
}

if [ "$(cat "$INSTALLED" 2>/dev/null)" = "$KEY" ] && works; then exit 0; fi
rm -f "$INSTALLED"

pip install -c "$CONSTRAINTS" cloudpickle packaging psutil pyyaml 'setuptools<81' wheel

install_wheel() {
  pip install --no-deps --no-index --force-reinstall "$1"/horovod-*.whl
}

if compgen -G "$CACHE/horovod-*.whl" >/dev/null; then
  echo "Installing Horovod $HOROVOD (built earlier, kept in $CACHE)..."
  install_wheel "$CACHE"
  if works; then
    echo "$KEY" >"$INSTALLED"
    exit 0
  fi
  echo "The kept build does not run here; building it anew."
  rm -rf "$CACHE"
fi

echo "Building Horovod $HOROVOD against TensorFlow $TENSORFLOW (about 5 minutes on two cores)..."

# Horovod includes five headers by the names that they had before TensorFlow moved them.
forward() { # old name, new name
  mkdir -p "$(dirname "$WORK/include/$1")"
  echo "#include \"$2\"" >"$WORK/include/$1"
}
XLA=tensorflow/compiler/xla
forward $XLA/client/xla_builder.h xla/hlo/builder/xla_builder.h
for header in service/custom_call_target_registry.h service/hlo.pb.h shape.h xla_data.pb.h; do
  forward $XLA/$header xla/$header
done
if env | grep -qE '^HOROVOD_GPU(_[A-Z]+)?=.'; then
  # The sources for GPUs use a name that has gone as well.
  cat >>"$WORK/include/$XLA/client/xla_builder.h" <<'EOF'
#include "absl/status/statusor.h"
namespace xla {
template <typename T>
using StatusOr = absl::StatusOr<T>;
}
EOF
fi
# CPLUS_INCLUDE_PATH comes after the -I folders, so nothing here hides a header of TensorFlow's.
THIRD_PARTY=$INCLUDE/external
CPLUS_INCLUDE_PATH=$THIRD_PARTY/highwayhash:$THIRD_PARTY/farmhash_archive/src:$WORK/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
export CPLUS_INCLUDE_PATH
# CMake 4 refuses the old versions that Horovod's copies of Gloo and Flatbuffers ask for.
export CMAKE_POLICY_VERSION_MINIMUM=${CMAKE_POLICY_VERSION_MINIMUM:-3.5}
# Horovod asks for eight compilers at once, or for one where `make` called us. As many as there are
# cores, and no more than fit in memory at 1.5 GB each.
JOBS=$(awk -v cores="$(nproc)" '/^MemAvailable/ { fit = int($2 / 1.5e6) }
  END { n = fit < cores ? fit : cores; print n < 1 ? 1 : n }' /proc/meminfo)
unset MFLAGS MAKELEVEL MAKEOVERRIDES
export MAKEFLAGS=-j$JOBS
PATH=$(dirname "$PYTHON"):$PATH

pip wheel --no-build-isolation --no-deps --no-cache-dir --no-binary horovod -w "$WORK/wheel" \
  "horovod==$HOROVOD"
install_wheel "$WORK/wheel"
works || { tail -n 5 "$LOG" >&2; fail "Horovod was built, but does not start"; }

# Kept last and by a rename, so that no half of it is ever taken for the whole. Not being able to
# keep it is no failure.
if mkdir -p "$CACHE.$$" 2>/dev/null; then
  cp "$WORK"/wheel/horovod-*.whl "$CACHE.$$/" && rm -rf "$CACHE" && mv "$CACHE.$$" "$CACHE"
fi
echo "$KEY" >"$INSTALLED"

#!/usr/bin/env bash
# Builds Horovod from its released sources against the TensorFlow of an environment, and installs it.
#
#   tools/build_horovod.sh             into the active environment, or ./.venv if there is none
#   PYTHON=/path/to/python tools/build_horovod.sh
#   tools/build_horovod.sh --check     only check that the compilers are installed
#
# `make setup` calls it. By default Horovod uses Gloo over TCP, without MPI and NCCL. These variables
# are passed on to Horovod's own build, so that clusters can use the same script:
#
#   HOROVOD_GPU_OPERATIONS=NCCL        reduce on the GPUs
#   HOROVOD_CUDA_HOME, HOROVOD_NCCL_HOME, HOROVOD_NCCL_INCLUDE, _LIB, HOROVOD_NCCL_LINK=SHARED|STATIC
#                                      where CUDA and NCCL are; by default nvcc is searched in PATH,
#                                      CUDA_HOME and /usr/local/cuda and otherwise taken from PyPI,
#                                      and NCCL is the one of TensorFlow's extra and-cuda
#   HOROVOD_BUILD_CUDA_CC_LIST=80,90   GPU architectures; by default all that nvcc supports
#   HOROVOD_WITH_MPI=1                 start and reduce by MPI as well
#   HOROVOD_WITHOUT_GLOO=1             leave Gloo out
#
# `make test-gpu-build` builds against NCCL in a new environment and starts the result on a machine
# without a GPU; docs/installation.md lists the builds that were tested. ROCm (HOROVOD_GPU=ROCM) was
# never tried.
#
# A Horovod that another hand installed, as in a container, is tried with a small reduction and used as
# it is. It is never built again: if it does not work, the script says so and changes nothing.
#
# The wheel is kept under ${TFADV_CACHE:-~/.cache/tfadv}, keyed by what it was built for (Horovod,
# TensorFlow, Python, processor, options), so that a second clone on this machine takes seconds
# instead of minutes. `make clean-cache` removes it.
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

# They are required even if a kept wheel makes them unnecessary: the requirements of a set-up should
# not depend on what was built before.
need_compilers() {
  need "${CXX:-g++}" "the C++ compiler" g++
  need "${HOROVOD_CMAKE:-cmake}" "the build tool of Horovod" cmake
  need make "the build tool of Horovod" make
  [ $MISSING = 0 ] || exit 1
}

if [ "${1:-}" = --check ]; then
  need_compilers
  exit 0
fi
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

# All output of pip and the compilers goes to the log; after a failure its end is shown.
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
import ctypes
import importlib.util
import platform
import sys

import tensorflow as tf

print(tf.version.VERSION)
print(tf.sysconfig.get_include())
print(sys.prefix)
print("cuda" if tf.test.is_built_with_cuda() else "cpu")
framework = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_framework.so.2")
gpu_stream = "_ZN15stream_executor3gpu16AsGpuStreamValueEPNS_6StreamE"
print("exported" if hasattr(framework, gpu_stream) else "missing")
nccl = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.nccl")
print(nccl.submodule_search_locations[0] if nccl else "none")
print(*tf.sysconfig.get_compile_flags())
horovod = importlib.util.find_spec("horovod")
print(horovod.submodule_search_locations[0] if horovod else "none")
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
  read -r BUILT_FOR
  read -r GPU_STREAM
  read -r NCCL
  read -ra TF_FLAGS
  read -r FOUND
} <"$WORK/facts"

# Horovod's own switches. A variable that is set but empty would count as set in its CMake files.
for NAME in $(env | grep -oE '^HOROVOD_[A-Z_]+=$' | tr -d '='); do unset "$NAME"; done
export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
if [ "${HOROVOD_WITHOUT_GLOO:-}" != 1 ]; then export HOROVOD_WITH_GLOO=1; fi
if [ "${HOROVOD_WITH_MPI:-}" != 1 ]; then export HOROVOD_WITHOUT_MPI=1; fi

on_gpus() { # of CUDA; ROCm finds its own
  env | grep -qE '^HOROVOD_GPU_[A-Z]+=.' && [ "${HOROVOD_GPU:-CUDA}" = CUDA ]
}
if on_gpus && [ "$BUILT_FOR" = cpu ]; then
  fail "HOROVOD_GPU_... needs a TensorFlow built for GPUs, as tfadv[gpu] installs it; received TensorFlow $TENSORFLOW for CPUs"
fi

# Everything that the wheel depends on. Horovod compiles for AVX, FMA and F16C if this processor has
# them, and different machines may share a home folder.
KEY=$({
  echo "horovod $HOROVOD, recipe 2" # the number changes with what this script does to the build
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

os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a training may run on that GPU
import horovod.tensorflow as hvd  # loads all symbols, and so fails if one is missing
import tensorflow as tf

hvd.init()
assert (hvd.rank(), hvd.size()) == (0, 1)
with tf.device("CPU:0"):
    # As tfadv.distributed reduces.
    tensors = [tf.ones([3]), tf.fill([2], 4.0)]
    sums = hvd.grouped_allreduce(tensors, op=hvd.Sum, name="tiny", ignore_name_scope=True)
assert [total.numpy().tolist() for total in sums] == [[1.0] * 3, [4.0] * 2], sums
assert hvd.allgather_object("worker") == ["worker"]
if os.environ.get("HOROVOD_GPU_OPERATIONS") == "NCCL":
    assert hvd.nccl_built(), "Horovod was built without NCCL"
    if tf.config.list_physical_devices("GPU"):

        @tf.function(jit_compile=False)
        def reduce(x):
            return hvd.allreduce(x, op=hvd.Sum, name="works")

        with tf.device("GPU:0"):
            total = reduce(tf.ones([1000]))
        assert "GPU" in total.device and total.numpy().sum() == 1000, total
EOF
}

if [ "$(cat "$INSTALLED" 2>/dev/null)" = "$KEY" ] && works; then exit 0; fi
if [ "$FOUND" != none ] && [ ! -e "$INSTALLED" ]; then
  if works; then
    echo "Using the Horovod that is already there ($FOUND)."
    exit 0
  fi
  tail -n 5 "$LOG" >&2
  fail "the Horovod that is already there ($FOUND) fails with TensorFlow $TENSORFLOW; uninstall it to have one built"
fi
need_compilers
echo unfinished >"$INSTALLED" # what is there from now on is ours, even after an interruption

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
  echo "The kept build does not run here; building it again."
  rm -rf "$CACHE"
fi

echo "Building Horovod $HOROVOD against TensorFlow $TENSORFLOW (about 5 minutes on two cores)..."

# Horovod includes five headers by their old names; TensorFlow has moved them since.
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
  # The sources for GPUs also use two names that no longer exist. The first is a type of XLA's.
  cat >>"$WORK/include/$XLA/client/xla_builder.h" <<'EOF'
#include "absl/status/statusor.h"
namespace xla {
template <typename T>
using StatusOr = absl::StatusOr<T>;
}
EOF
  # The second is a function that TensorFlow exported up to 2.20: it returns the CUDA stream of one
  # of TensorFlow's streams. Without it Horovod links but cannot be imported. This object file
  # defines it as TensorFlow did. LDFLAGS link it into CMake's trial programs too, which have no
  # TensorFlow, so everything else that its header brings along is removed.
  if [ "$GPU_STREAM" = missing ]; then
    cat >"$WORK/gpu_stream.cc" <<'EOF'
#include "xla/stream_executor/stream.h"

namespace stream_executor::gpu {
void* AsGpuStreamValue(Stream* stream) { return stream->platform_specific_handle().stream; }
}  // namespace stream_executor::gpu
EOF
    quietly "${CXX:-g++}" "${TF_FLAGS[@]}" -w -O2 -fPIC -ffunction-sections \
      -c "$WORK/gpu_stream.cc" -o "$WORK/whole.o"
    quietly objcopy --strip-unneeded -j .note.GNU-stack \
      -j .text._ZN15stream_executor3gpu16AsGpuStreamValueEPNS_6StreamE \
      "$WORK/whole.o" "$WORK/gpu_stream.o"
    export LDFLAGS="$WORK/gpu_stream.o ${LDFLAGS:-}"
  fi
fi
if on_gpus; then
  # TensorFlow's extra and-cuda installs NCCL as a Python package, and one process must not load two
  # versions. The package has only libnccl.so.2, and linkers look for libnccl.so.
  if [ "$NCCL" != none ] && ! env | grep -qE '^HOROVOD_NCCL_(HOME|INCLUDE|LIB)=.'; then
    mkdir -p "$WORK/nccl/lib"
    ln -s "$NCCL/include" "$WORK/nccl/include"
    ln -s "$NCCL/lib/libnccl.so.2" "$WORK/nccl/lib/libnccl.so"
    export HOROVOD_NCCL_HOME=$WORK/nccl HOROVOD_NCCL_LINK=SHARED
    # Relative to horovod/tensorflow/, so that the wheel works in any environment.
    export LDFLAGS="-Wl,-rpath,\$ORIGIN/../../nvidia/nccl/lib ${LDFLAGS:-}"
  fi
  if [ -z "${HOROVOD_CUDA_HOME:-}" ]; then
    if [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
      export HOROVOD_CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
    elif ! command -v nvcc >/dev/null; then
      echo "There is no nvcc here; using the one of PyPI."
      pip install --target "$WORK/pypi" --no-deps -c "$CONSTRAINTS" nvidia-cuda-cccl \
        nvidia-cuda-crt nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-nvvm
      export HOROVOD_CUDA_HOME=$WORK/pypi/nvidia/cu13
      ln -s lib "$HOROVOD_CUDA_HOME/lib64"
      ln -s libcudart.so.13 "$HOROVOD_CUDA_HOME/lib/libcudart.so"
    fi
  fi
  if [ -n "${HOROVOD_CUDA_HOME:-}" ]; then
    export CUDA_HOME=$HOROVOD_CUDA_HOME PATH=$HOROVOD_CUDA_HOME/bin:$PATH
  fi
fi
# CPLUS_INCLUDE_PATH is searched after the -I folders, so nothing here hides TensorFlow's headers.
THIRD_PARTY=$INCLUDE/external
CPLUS_INCLUDE_PATH=$THIRD_PARTY/highwayhash:$THIRD_PARTY/farmhash_archive/src:$WORK/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
export CPLUS_INCLUDE_PATH
# CMake 4 refuses the old versions that Horovod's copies of Gloo and Flatbuffers require.
export CMAKE_POLICY_VERSION_MINIMUM=${CMAKE_POLICY_VERSION_MINIMUM:-3.5}
# Horovod starts eight compilers at once, or a single one if `make` called this script. Start as many
# as there are cores, but no more than fit in memory at 1.5 GB each.
JOBS=$(awk -v cores="$(nproc)" '/^MemAvailable/ { fit = int($2 / 1.5e6) }
  END { n = fit < cores ? fit : cores; print n < 1 ? 1 : n }' /proc/meminfo)
unset MFLAGS MAKELEVEL MAKEOVERRIDES
export MAKEFLAGS=-j$JOBS
PATH=$(dirname "$PYTHON"):$PATH

pip wheel --no-build-isolation --no-deps --no-cache-dir --no-binary horovod -w "$WORK/wheel" \
  "horovod==$HOROVOD"
install_wheel "$WORK/wheel"
works || { tail -n 5 "$LOG" >&2; fail "Horovod was built, but does not start"; }

# The rename makes sure that an incomplete copy is never used. If the wheel cannot be kept, the build
# still succeeds.
if mkdir -p "$CACHE.$$" 2>/dev/null; then
  cp "$WORK"/wheel/horovod-*.whl "$CACHE.$$/" && rm -rf "$CACHE" && mv "$CACHE.$$" "$CACHE"
fi
echo "$KEY" >"$INSTALLED"

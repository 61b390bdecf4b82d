#!/usr/bin/env bash
# Compiles what runs on NVIDIA GPUs, without a GPU and without a CUDA of the
# system: candle's CUDA kernels by nvcc (from Python packages where there is none),
# and our code with the cargo feature `cuda`. Nothing is linked or run: that needs
# the driver's libcuda, which comes with a GPU's driver only.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
# One release of CUDA: these versions belong together.
PACKAGES=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
# The kernels are compiled for one kind of GPU, 8.0 (Ampere) unless told otherwise.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
# What is not run need not be fast, and nvcc takes minutes for one file to make it
# so. Hence a target folder of this check's own: no program gets these kernels.
# (NVCC_APPEND_FLAGS= compiles them as a program has them.)
export NVCC_APPEND_FLAGS=${NVCC_APPEND_FLAGS--Xcicc -O1 -Xptxas -O0}
export CARGO_TARGET_DIR=${CHECK_CUDA_TARGET_DIR:-$CACHE/cuda/target}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the packages of nvcc used here are for Linux on x86_64"
command -v g++ >/dev/null || fail "nvcc needs a C++ compiler: apt-get install g++"
if command -v nvcc >/dev/null; then
  say "Using $(command -v nvcc): $(nvcc --version | grep release)"
else
  venv=$CACHE/cuda/venv
  made=$venv/made-of
  if [ "$(cat "$made" 2>/dev/null)" != "${PACKAGES[*]}" ]; then
    say "Installing nvcc from Python packages into $venv (some 300 MB, once)"
    rm -rf "$venv"
    python3 -m venv "$venv" || fail "python3-venv is needed: apt-get install python3-venv"
    "$venv/bin/pip" install -q --no-deps "${PACKAGES[@]}" || fail "the packages could not be installed"
    echo "${PACKAGES[*]}" > "$made"
  fi
  CUDA_HOME=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
  [ -x "$CUDA_HOME/bin/nvcc" ] || fail "the packages have no nvcc at $CUDA_HOME/bin/nvcc"
  ln -sfn lib "$CUDA_HOME/lib64" # where build scripts look
  export CUDA_HOME CUDA_PATH=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH
  say "Using $(nvcc --version | grep release)"
fi

say "Compiling the kernels for compute capability $CUDA_COMPUTE_CAP, and checking the code with the feature cuda (the first time takes some ten minutes on two cores)"
cargo clippy --locked --release -p engine -p gateway -p trainer --features engine/cuda,gateway/cuda,trainer/cuda --all-targets -- -D warnings
touch "$CACHE/cuda/warm"
say "The CUDA code compiles. It was not run: that needs a GPU."

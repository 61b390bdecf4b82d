#!/usr/bin/env bash
# Compiles what runs on NVIDIA GPUs, without a GPU: candle's CUDA kernels by nvcc,
# and our code with the cargo feature `cuda`. Linking, and so running, needs the
# driver's libcuda, which comes with a GPU's driver only.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
# One release of CUDA: these versions belong together.
PACKAGES=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}

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

say "Compiling the kernels for compute capability $CUDA_COMPUTE_CAP, and checking the code (the first time takes half an hour on two cores)"
cargo clippy --locked --release -p gateway --features cuda --all-targets -- -D warnings
cargo clippy --locked --release -p engine --features cuda --all-targets -- -D warnings
say "The CUDA code compiles. It was not run: that needs a GPU."

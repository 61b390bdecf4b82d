# Shared by the scripts that compile for NVIDIA GPUs: puts an nvcc of CUDA 13 on the
# PATH, from Python packages where the system has none. Sourced after common.sh.

# One release of CUDA: these versions belong together.
PACKAGES=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}

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

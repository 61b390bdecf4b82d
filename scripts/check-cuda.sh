#!/usr/bin/env bash
# Compiles what runs on NVIDIA GPUs, without a GPU and without a CUDA of the
# system: candle's CUDA kernels by nvcc (from Python packages where there is none),
# and our code with the cargo feature `cuda`. Nothing is linked or run: that needs
# the driver's libcuda, which comes with a GPU's driver only.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
# The kernels are compiled for one kind of GPU, 8.0 (Ampere) unless told otherwise.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
# What is not run need not be fast, and nvcc takes minutes for one file to make it
# so. Hence a target folder of this check's own: no program gets these kernels.
# (NVCC_APPEND_FLAGS= compiles them as a program has them.)
export NVCC_APPEND_FLAGS=${NVCC_APPEND_FLAGS--Xcicc -O1 -Xptxas -O0}
export CARGO_TARGET_DIR=${CHECK_CUDA_TARGET_DIR:-$CACHE/cuda/target}

. scripts/cuda.sh
say "Compiling the kernels for compute capability $CUDA_COMPUTE_CAP, and checking the code with the feature cuda (the first time takes some ten minutes on two cores)"
cargo clippy --locked --release -p engine -p gateway -p trainer --features engine/cuda,gateway/cuda,trainer/cuda --all-targets -- -D warnings
touch "$CACHE/cuda/warm"
say "The CUDA code compiles. It was not run: that needs a GPU."

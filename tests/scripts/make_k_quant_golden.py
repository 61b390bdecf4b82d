"""Writes tests/golden/k_quants.safetensors: super-blocks of every K-quant
format, and their weights as the package gguf dequantizes them.

    python tests/scripts/make_k_quant_golden.py

Codes and scales of the blocks are random bytes, so that every bit has a part.
Their f16 scale and minimum are random numbers of both signs; one block has
zeros, one the smallest f16, one the largest that keeps the weights finite.

Needs numpy, gguf and safetensors (made with gguf 0.19.0).
"""

import pathlib

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "k_quants.safetensors"
# Where the f16 numbers of a super-block are.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
ROWS, BLOCKS = 2, 3


def blocks(name, rng):
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    made = rng.integers(0, 256, (ROWS * BLOCKS, size), dtype=numpy.uint8)
    for at in HALVES[name]:
        halves = rng.standard_normal(ROWS * BLOCKS).astype(numpy.float16)
        halves[1], halves[2], halves[3] = 0, 6e-8, 60000
        made[:, at : at + 2] = halves.view(numpy.uint8).reshape(-1, 2)
    return made


def main():
    rng = numpy.random.default_rng(3)
    tensors = {}
    for name in HALVES:
        made = blocks(name, rng)
        weights = quants.dequantize(made, GGMLQuantizationType[name]).astype(numpy.float32)
        assert numpy.isfinite(weights).all()
        tensors[f"{name}.blocks"] = made.reshape(ROWS, -1)
        tensors[f"{name}.weights"] = weights.reshape(ROWS, -1)
    save_file(tensors, GOLDEN)


if __name__ == "__main__":
    main()

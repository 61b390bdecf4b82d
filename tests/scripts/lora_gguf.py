"""A PEFT folder of a llama model as llama.cpp's GGUF adapter, in half precision,
as our engine keeps it too. Only plain LoRA of one rank and alpha, as
`flywheel bench adapters` writes it.
"""

import json
from pathlib import Path

import numpy
from gguf import GGUFType, GGUFWriter
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(rows, heads):
    """The order of llama.cpp's conversion: the halves of each head interleaved."""
    count, rank = rows.shape
    return rows.reshape(heads, 2, count // heads // 2, rank).swapaxes(1, 2).reshape(count, rank)


def convert(folder, path, heads, kv_heads):
    """Writes the adapter in `folder` to `path`."""
    folder = Path(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    writer = GGUFWriter(str(path), "llama")
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, values in load_file(folder / "adapter_model.safetensors").items():
        _, _, _, _, layer, module = name.split(".", 5)
        module, part = module.removesuffix(".weight").rsplit(".lora_", 1)
        if part == "B" and module.endswith(("q_proj", "k_proj")):
            values = permuted(values, heads if module.endswith("q_proj") else kv_heads)
        half = numpy.ascontiguousarray(values.astype(numpy.float16))
        writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight.lora_{part.lower()}", half)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

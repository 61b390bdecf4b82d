"""Writes tests/golden/tiny_llama/*.gguf: the adapters of make_peft_golden.py as
llama.cpp's files, by gguf-py and what PEFT says of each module's scale.

    python tests/scripts/make_export_golden.py

Needs torch, transformers, peft, gguf (made with peft 0.21.2, gguf 0.19.0).
"""

import numpy
from gguf import GGUFType, GGUFWriter
from peft import PeftModel

from lora_gguf import NAMES, permuted
from make_peft_golden import ADAPTERS, CONFIG, GOLDEN, base_model


def modules(model):
    """Layer, name, A, B and scale of every adapted module."""
    for path, module in model.named_modules():
        if "default" in getattr(module, "lora_A", {}):
            layer, name = path.split("layers.")[1].split(".", 1)
            a, b = (part["default"].weight.detach().float().numpy() for part in (module.lora_A, module.lora_B))
            yield layer, name, a, b, module.scaling["default"]


def write(name):
    model = PeftModel.from_pretrained(base_model(), GOLDEN / name)
    writer = GGUFWriter(str(GOLDEN / f"{name}.gguf"), "llama")
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    alpha = 1.0
    writer.add_float32("adapter.lora.alpha", alpha)
    heads = {"self_attn.q_proj": CONFIG.num_attention_heads, "self_attn.k_proj": CONFIG.num_key_value_heads}
    for layer, module, a, b, scale in modules(model):
        b = permuted(b, heads[module]) if module in heads else b
        b = b * numpy.float32(scale / (alpha / a.shape[0]))
        for part, values in (("a", a), ("b", b)):
            values = numpy.ascontiguousarray(values.astype(numpy.float32))
            writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight.lora_{part}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


for adapter in ADAPTERS:
    write(adapter)

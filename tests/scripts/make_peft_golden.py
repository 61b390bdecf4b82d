"""Writes tests/golden/tiny_llama: a small random llama as GGUF, LoRA adapters
for it made and saved by PEFT, and the logits of transformers in f32 without and
with each of them.

    python tests/scripts/make_peft_golden.py            # writes
    python tests/scripts/make_peft_golden.py --check    # loads our exports in PEFT

With --check the adapters that our own code wrote (exported/, kept byte for byte
by a test) are loaded into PEFT: no key may be missing or unexpected, and the
logits must be those of the adapter that was imported.

Needs torch, transformers, peft, gguf (made with transformers 5.23.0, peft 0.21.2).
"""

import json
import pathlib
import shutil
import sys
import warnings

import numpy
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_gguf import TOKENS, write_gguf

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tiny_llama"
INPUT = [1, 108, 45, 261, 9, 200, 262, 2, 31, 108]
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=256, tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "adapter": (LoraConfig(r=4, lora_alpha=8, target_modules=SEVEN, task_type="CAUSAL_LM"), torch.float32),
    "adapter_patterns": (
        LoraConfig(
            r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "k_proj", "down_proj"], task_type="CAUSAL_LM",
            rank_pattern={"k_proj": 2, r"layers\.1\..*": 6}, alpha_pattern={"layers.0.mlp.down_proj": 7},
        ),
        torch.float32,
    ),
    "adapter_layer_bf16": (
        LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[1], task_type="CAUSAL_LM"),
        torch.bfloat16,
    ),
}


def base_model():
    torch.manual_seed(11)
    model = LlamaForCausalLM(CONFIG).eval().to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + torch.randn_like(parameter) * (0.1 if centre else 0.25))
    return model


def logits(model):
    with torch.no_grad():
        rows = model(torch.tensor([INPUT])).logits[0]
    return [[float(f"{value:.7g}") for value in row] for row in rows.tolist()]


def write_adapter(name, config, dtype):
    model = get_peft_model(base_model(), config)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                values = torch.randn(parameter.shape, generator=generator) * 0.3
                parameter.copy_(values.to(dtype).to(torch.float32))
    result = logits(model.eval())
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = parameter.data.to(dtype)
    model.save_pretrained(GOLDEN / name)
    (GOLDEN / name / "README.md").unlink()
    return result


def write():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    model = base_model()
    write_gguf(model, GOLDEN / "model.gguf")
    facts = {"tokens": INPUT, "base": logits(model)}
    facts |= {name: write_adapter(name, *made) for name, made in ADAPTERS.items()}
    (GOLDEN / "logits.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")


def check():
    facts = json.loads((GOLDEN / "logits.json").read_text())
    for name in ADAPTERS:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model = PeftModel.from_pretrained(base_model(), GOLDEN / "exported" / name)
            model.delete_adapter("default")
            result = model.load_adapter(GOLDEN / "exported" / name, adapter_name="default")
        missing = [key for key in result.missing_keys if "lora_" in key]
        assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
        model.set_adapter("default")
        difference = numpy.abs(numpy.array(logits(model.eval())) - numpy.array(facts[name])).max()
        assert difference < 1e-5, difference
        moved = numpy.abs(numpy.array(facts[name]) - numpy.array(facts["base"])).max()
        print(f"{name}: no key missing or unexpected, logits within {difference:.1e} (adapter moves them by {moved:.2f})")


if __name__ == "__main__":
    check() if "--check" in sys.argv[1:] else write()

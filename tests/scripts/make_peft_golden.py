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
from gguf import GGUFWriter, TokenType
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tiny_llama"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = [("Ġ", "t"), ("h", "e"), ("i", "n"), ("Ġt", "he"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("in", "g")]


def byte_alphabet():
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + byte_alphabet() + ["".join(pair) for pair in MERGES]
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


def permuted(weight, heads):
    """The order of llama.cpp's conversion: the halves of each head interleaved."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model, path):
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny llama")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_rope_dimension_count(CONFIG.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    state = {name: value.numpy().astype(numpy.float32) for name, value in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    heads = {"self_attn.q_proj": CONFIG.num_attention_heads, "self_attn.k_proj": CONFIG.num_key_value_heads}
    for layer in range(CONFIG.num_hidden_layers):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if ours in heads:
                weight = permuted(weight, heads[ours])
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", numpy.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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

"""Writes tests/golden/architectures: for each architecture a tiny random model
as GGUF, and the logits of transformers in f32 after each token; for some also
an adapter made by PEFT, and the logits with it. And tests/golden/folders: tiny
models as transformers saves them, one in several files, with their logits; two with
tokenizers of their own kind, and token ids of texts and conversations
(`tokens.json`).

    python tests/scripts/make_architecture_golden.py [FOLDER…]

Matrices are stored as Q8_0, and transformers computes with what they are after
that, so that nothing but the order of sums differs. The adapters and biases
have values large enough that leaving one out is seen.

Needs torch, transformers, peft, gguf (made with transformers 5.24.0, peft
0.21.2, gguf 0.19.0).
"""

import json
import pathlib
import shutil
import sys

import numpy
import torch
from gguf import RopeScalingType
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import tiny_tokenizers
from tiny_gguf import MERGES, Q8_0, TEMPLATE, TOKENS, rounded, write_gguf

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "architectures"
SIZES = dict(
    vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


def llama3_factors(model):
    """What the conversion stores as `rope_freqs.weight`."""
    plain = 1.0 / (LLAMA3["rope_theta"] ** (torch.arange(0, 16, 2, dtype=torch.float) / 16))
    return (plain / model.model.rotary_emb.inv_freq).numpy().astype(numpy.float32)


def base(writer, theta):
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(theta)


def linear(writer):
    base(writer, 10000.0)
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def phi3(writer):
    writer.add_rope_dimension_count(12)
    writer.add_rope_freq_base(10000.0)
    writer.add_sliding_window(9)


def gemma3(writer):
    writer.add_rope_freq_base(1e6)
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.add_sliding_window(9)
    writer.add_sliding_window_pattern(3)


# name: (GGUF's architecture, configuration, class, metadata, PEFT's target modules or none, tokens)
MODELS = {
    "llama_linear": ("llama", LlamaConfig(**SIZES, tie_word_embeddings=False, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
                     LlamaForCausalLM, linear, None, 24),
    "llama3": ("llama", LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3), LlamaForCausalLM,
               lambda writer: base(writer, LLAMA3["rope_theta"]), None, 48),
    "qwen2": ("qwen2", Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
              Qwen2ForCausalLM, lambda writer: base(writer, 1e6), ["q_proj", "k_proj", "v_proj", "down_proj"], 24),
    "qwen3": ("qwen3", Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
              Qwen3ForCausalLM, lambda writer: writer.add_rope_freq_base(1e6), None, 24),
    "phi3": ("phi3", Phi3Config(**SIZES, tie_word_embeddings=False, sliding_window=9,
                                rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}),
             Phi3ForCausalLM, phi3, ["qkv_proj", "gate_up_proj", "o_proj"], 40),
    "gemma3": ("gemma3", Gemma3TextConfig(**(SIZES | {"num_hidden_layers": 3}), head_dim=32, query_pre_attn_scalar=32, sliding_window=9,
                                          layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                                          rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                                                           "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
               Gemma3ForCausalLM, gemma3, None, 80),
}


def random_model(config, kind):
    torch.manual_seed(11)
    model = kind(config).eval().to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name:
                # gemma's norms add 1 themselves
                parameter.copy_((0.0 if config.model_type.startswith("gemma") else 1.0) + noise * 0.2)
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.5)
            else:
                parameter.copy_(torch.from_numpy(rounded((noise * 0.2).numpy(), Q8_0)))
    return model


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy().astype(numpy.float32)


def add_adapter(model, targets, folder):
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.eval().save_pretrained(folder)
    (folder / "README.md").unlink()
    return adapted


def write(name):
    architecture, config, kind, metadata, targets, count = MODELS[name]
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = random_model(config, kind)
    extra = {"rope_freqs.weight": llama3_factors(model)} if name == "llama3" else {}
    write_gguf(model, folder / "model.gguf", architecture, metadata, extra, Q8_0, name=f"tiny {name}")
    rng = numpy.random.default_rng(7)
    tokens = [1, *rng.integers(3, len(TOKENS), count - 1).tolist()]
    facts = {"tokens": numpy.array(tokens, dtype=numpy.uint32), "base": logits(model, tokens)}
    if targets:
        facts["adapter"] = logits(add_adapter(model, targets, folder / "adapter"), tokens)
    save_file(facts, folder / "logits.safetensors")
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    moved = numpy.abs(facts.get("adapter", facts["base"]) - facts["base"]).max()
    print(f"{name}: logits up to {numpy.abs(facts['base']).max():.1f}, the adapter moves them by up to {moved:.1f}")


def small(kind, **more):
    return kind(**(SIZES | {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4} | more))


FOLDERS = {
    "llama3": (small(LlamaConfig, intermediate_size=256, tie_word_embeddings=True,
                     rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}), LlamaForCausalLM, "60KB"),
    "qwen2": (small(Qwen2Config, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), Qwen2ForCausalLM, "1GB"),
    "qwen3": (small(Qwen3Config, head_dim=16, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), Qwen3ForCausalLM, "1GB"),
    "gemma3": (small(Gemma3TextConfig, vocab_size=333, num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=24, sliding_window=9, tie_word_embeddings=True,
                     layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                     rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}), Gemma3ForCausalLM, "1GB"),
    "phi3": (small(Phi3Config, vocab_size=333, sliding_window=9, tie_word_embeddings=False,
                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}), Phi3ForCausalLM, "1GB"),
}
TOKENIZERS = {"gemma3": tiny_tokenizers.gemma3, "phi3": tiny_tokenizers.phi3}


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(TOKENS)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(TOKENS[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_own_tokenizer(folder, made):
    """And what transformers does with it."""
    tokenizer, config, template = made
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}, indent=2) + "\n")

    def wrapped(tokenizer):
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, clean_up_tokenization_spaces=False, **config)

    usual, older = wrapped(tokenizer), wrapped(tiny_tokenizers.with_prefix(tokenizer))

    def ids(tokenizer, text, as_text=False):
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)

    texts = [{"text": text, "ids": ids(usual, text), "as_text": ids(usual, text, True), "with_prefix": ids(older, text)} for text in tiny_tokenizers.TEXTS]
    chats = []
    for messages in tiny_tokenizers.CHATS:
        both = [tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) for tokenizer in (usual, older)]
        chats.append({"messages": messages, "ids": both[0], "with_prefix": both[1]})
    golden = json.dumps({"texts": texts, "chats": chats}, ensure_ascii=False)
    (folder / "tokens.json").write_text(golden.replace("}, {\"", "},\n{\"") + "\n", encoding="utf-8")


def write_folder(name):
    config, kind, shard = FOLDERS[name]
    folder = GOLDEN.parent / "folders" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = random_model(config, kind)
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in TOKENIZERS:
        write_own_tokenizer(folder, TOKENIZERS[name]())
    else:
        write_tokenizer(folder)
    rng = numpy.random.default_rng(7)
    tokens = [1, *rng.integers(3, len(TOKENS), 31).tolist()]
    save_file({"tokens": numpy.array(tokens, dtype=numpy.uint32), "base": logits(model, tokens)}, folder / "logits.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    for name in sys.argv[1:] or FOLDERS:
        write_folder(name)
    for name in [] if sys.argv[1:] else MODELS:
        write(name)

"""Writes tiny random models of transformers as GGUF files, for the scripts that
make goldens: the tensor names and metadata of llama.cpp's conversion, and a
small byte-level vocabulary.
"""

import numpy
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

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
LAYER = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_proj.bias": "attn_q.bias", "self_attn.k_proj.bias": "attn_k.bias", "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.qkv_proj.weight": "attn_qkv.weight", "mlp.gate_up_proj.weight": "ffn_up.weight",
}
# Gemma has four norms, and another one by LLaMA's name.
GEMMA_LAYER = LAYER | {
    "post_attention_layernorm.weight": "post_attention_norm.weight", "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}


def permuted(weight, heads):
    """The order of llama.cpp's conversion: the halves of each head interleaved."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(model, architecture):
    """Names and f32 values of a model's tensors, as GGUF has them."""
    config, layer_names = model.config, GEMMA_LAYER if architecture == "gemma3" else LAYER
    names = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in layer_names.items()}
    state = {name: value.numpy().astype(numpy.float32) for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    unknown = state.keys() - names.keys()
    assert not unknown, unknown
    tensors = {}
    for ours, theirs in names.items():
        if ours not in state:
            continue
        value = state[ours]
        if architecture == "gemma3" and ours.endswith("norm.weight"):
            value = value + 1
        if architecture == "llama" and "q_proj" in ours:
            value = permuted(value, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in ours:
            value = permuted(value, config.num_key_value_heads)
        tensors[theirs] = numpy.ascontiguousarray(value)
    return tensors


def write_gguf(model, path, architecture="llama", metadata=None, extra_tensors=None, kind=None, name="tiny llama"):
    """`metadata(writer)` adds what only this architecture has; matrices are
    quantized to `kind` if it is given."""
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if metadata is None:
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(10000.0)
    else:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        metadata(writer)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    tensors = gguf_tensors(model, architecture) | (extra_tensors or {})
    first = ["token_embd.weight", "output.weight", "output_norm.weight"]
    for tensor in [n for n in first if n in tensors] + [n for n in tensors if n not in first]:
        value = tensors[tensor]
        if kind is None or value.ndim == 1:
            writer.add_tensor(tensor, value)
        else:
            raw = quants.quantize(value, kind)
            writer.add_tensor(tensor, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(value, kind):
    """A matrix as it is after being stored as `kind`."""
    return quants.dequantize(quants.quantize(value, kind), kind).astype(numpy.float32)


Q8_0 = GGMLQuantizationType.Q8_0

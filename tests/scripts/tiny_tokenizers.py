"""Tokenizers as Gemma 3 and Phi-3 publish them, with a small vocabulary: bytes,
characters and a few merges, control tokens, and tokens that were added by hand.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

CHARACTERS = "▁abcdefghijklmnopqrstuvwxyz.,:()<>|/_0123456789"
MERGES = [("▁", "t"), ("h", "e"), ("i", "n"), ("▁t", "he"), ("▁", "a"), ("n", "d"), ("▁a", "nd"), ("in", "g"), ("l", "d"), ("▁", "▁"), ("▁▁", "▁▁")]


def tokenizer(first, last):
    """With tokens before the bytes and after the merges."""
    tokens = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS, *("".join(pair) for pair in MERGES), *last]
    vocab = {token: i for i, token in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    made = Tokenizer(models.BPE(vocab, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def added(tokens, special, **rules):
    return [AddedToken(token, special=special, **{"normalized": False, **rules}) for token in tokens]


def gemma3():
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    by_hand = ["\n", "\n\n", "\n\n\n", "▁▁▁", "<b>", "</b>", "<b>\n"]
    made = tokenizer(control, by_hand)
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_special_tokens(added(control, True))
    made.add_tokens(added(by_hand, False))
    template = (
        "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )
    return made, {"bos_token": "<bos>", "eos_token": "<eos>"}, template


def phi3():
    """With one token for each rule that an added token may have."""
    control, stripping = ["<unk>", "<s>", "<|endoftext|>"], ["</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    made = tokenizer(["<unk>", "<s>", "</s>"], ["<|endoftext|>", *stripping[1:], "<left>", "and", "<n>", "<written>"])
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    made.add_special_tokens(added(control, True) + added(stripping, True, rstrip=True))
    made.add_tokens(added(["<left>"], False, lstrip=True) + added(["and"], False, single_word=True))
    made.add_tokens(added(["<n>"], False, normalized=True))
    made.add_special_tokens(added(["<written>"], True, normalized=True))
    template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    return made, {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, template


def with_prefix(made):
    """As older files have it: every piece of text between tokens begins with a space."""
    older = Tokenizer.from_str(made.to_str())
    older.pre_tokenizer = None
    older.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return Tokenizer.from_str(older.to_str())


TEXTS = [
    "", " ", "the thing", " the thing and the rest", "the\n\n\n\nrest\n", "a  b   c    d", "<b>bold</b> and <b>\n<b>more", "land and sand,and band",
    "x<left>y  <left> z", "the <n> n<n>the", "çà 日本 👍", "  the", "a\u00a0b\u3000c", "<0x0A>", "▁▁▁▁ the", "\t\tindeed\n  return\n", "the <written>\nthing",
    "<start_of_turn>user\nthe<end_of_turn>\n", "<|user|>\nthe thing<|end|>\n<|assistant|>\n the", "<s> the </s>  \n the<|end|>\n\n<|endoftext|>\nthe",
    "<|user|><|end|>  <left><|end|>", "the<|end|>and<|end|> and",
]
CHATS = [
    [{"role": "user", "content": "the thing"}],
    [{"role": "user", "content": "\n\n\n\nthe  <b>bold</b>   thing\n and <b>\n</b>\n\n"}],
    [{"role": "user", "content": " a\n\n\nb and\n  c"}, {"role": "assistant", "content": "  in\n\n    <n>\n"}, {"role": "user", "content": "x <left>y ▁▁▁"}],
]

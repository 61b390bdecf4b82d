"""Writes tests/golden/tokenizer/sentencepiece.{gguf,jsonl}: a small SentencePiece
vocabulary with byte fallback as GGUF (no tensors), and token ids of texts.

    python tests/scripts/make_sentencepiece_golden.py

The vocabulary is trained on those of the texts that are in Latin letters, with
the settings of LLaMA's.
It has also control tokens, and tokens that were added by hand, as Gemma 3 has for
line breaks, spaces and tags.
`ids` are those of a tokenizer as the published tokenizer.json files of Llama 2
and Mistral have it, with the merges that transformers makes of the scores;
`as_text` those with control tokens taken as text; `without_prefix` those of a
tokenizer as Gemma's; `stripped` those of the first where the added tokens take the
white space after them, as Phi-3's do. Where SentencePiece itself, given the same
text, has others, the script says so.

Needs sentencepiece, tokenizers, transformers, gguf (made with sentencepiece
0.2.1, tokenizers 0.23.3, transformers 5.24.0).
"""

import json
import pathlib
import random
import tempfile

import sentencepiece
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from make_tokenizer_golden import SENTENCES, texts

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokenizer"
TOKENS, ROWS = 600, 200
CONTROL, BY_HAND = ["<|user|>", "<|end|>"], ["\n", "\n\n", "  ", "<b>"]
# without the white space after them in what Phi-3 takes
UNSTRIPPED = ["<unk>", "<s>"]
ADDED_TEXTS = ["a\n\n\nb\n", "x  y   z    ", "<b>bold</b>\n", "<|user|>\n  hi<|end|>\n\n<|user|> <s> x</s> \t\ny", "f():\n    return  1\n",
               "<<|end|>>  \n<b>\u00a0<b>", "<|user|>\u00a0\u3000x<b> \n<unk> "]


def train():
    # other scripts are left to bytes
    latin = [text for text in SENTENCES if all(ord(c) < 0x180 for c in text)]
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(latin), model_prefix=f"{folder}/m", vocab_size=TOKENS, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.995,
            allow_whitespace_only_pieces=True, minloglevel=2,
        )
        return sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")


def kind(processor, token):
    if processor.is_unknown(token):
        return TokenType.UNKNOWN
    if processor.is_control(token):
        return TokenType.CONTROL
    return TokenType.BYTE if processor.is_byte(token) else TokenType.NORMAL


def write_gguf(processor, pieces, scores, kinds):
    writer = GGUFWriter(GOLDEN / "sentencepiece.gguf", "llama")
    # a test makes it the name of a Phi-3
    writer.add_name("tok-3 mini")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_add_space_prefix(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def published(vocab, merges, prefix, strips=False):
    """As the tokenizer.json of Llama 2 (with the prefix) or Gemma."""
    bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    if prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])

    def added(token, special):
        return AddedToken(token, special=special, normalized=False, rstrip=strips and token not in UNSTRIPPED)

    tokenizer.add_special_tokens([added(token, True) for token in ["<unk>", "<s>", "</s>", *CONTROL]])
    tokenizer.add_tokens([added(token, False) for token in BY_HAND])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def ids_of(tokenizer, text, as_text=False):
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)


def main():
    processor = train()
    ids = range(processor.vocab_size())
    pieces, scores = [processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids]
    kinds = [kind(processor, i) for i in ids]
    for token in CONTROL + BY_HAND:
        if token not in pieces:
            pieces.append(token)
            scores.append(-1000.0)
            kinds.append(TokenType.NORMAL)
        kinds[pieces.index(token)] = TokenType.CONTROL if token in CONTROL else TokenType.USER_DEFINED
    write_gguf(processor, pieces, scores, kinds)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    assert len(vocab) == len(pieces)
    others = [piece for piece, k in zip(pieces, kinds) if k != TokenType.NORMAL]
    merges = generate_merges(vocab, dict(zip(pieces, scores)), others)
    with_prefix, without = published(vocab, merges, True), published(vocab, merges, False)
    stripping = published(vocab, merges, True, strips=True)
    rows = random.Random(3).sample(texts(), ROWS) + ["<s>a </s>b", "x<s> y", "\n\n  ", "日本", *ADDED_TEXTS]
    differ = 0
    with open(GOLDEN / "sentencepiece.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for text in rows:
            row = {"text": text, "ids": ids_of(with_prefix, text), "as_text": ids_of(with_prefix, text, as_text=True),
                   "without_prefix": ids_of(without, text), "stripped": ids_of(stripping, text)}
            assert without.decode(row["without_prefix"]) == text
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            if not any(token in text for token in ["<s>", *CONTROL, *BY_HAND]) and processor.encode(text) != row["ids"]:
                differ += 1
                print("SentencePiece differs:", repr(text[:60]))
    print(f"{len(merges)} merges, {len(rows)} rows, SentencePiece differs in {differ}")


if __name__ == "__main__":
    main()

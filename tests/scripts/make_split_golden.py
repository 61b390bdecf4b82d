"""Writes tests/golden/tokenizer/splits.json: how texts are cut into words before
the merges by the expressions of published tokenizers that GGUF calls `tekken`
(Mistral-Nemo's) and `dbrx` (Phi-4's).

    python tests/scripts/make_split_golden.py

Needs tokenizers (made with tokenizers 0.23.3, which has another engine of
expressions than the crate as it is built here).
"""

import json
import random

from tokenizers import Regex, pre_tokenizers

from make_tokenizer_golden import EDGES, GOLDEN, SENTENCES, texts

ROWS = 60
EXPRESSIONS = {
    "dbrx": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
              r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
              r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def main():
    rows = sorted({*EDGES, *SENTENCES, *random.Random(5).sample(texts(), ROWS)})
    golden = {}
    for name, expression in EXPRESSIONS.items():
        cut = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
        golden[name] = [[text, [piece for piece, _ in cut.pre_tokenize_str(text)]] for text in rows]
    with open(GOLDEN / "splits.json", "w", encoding="utf-8", newline="\n") as file:
        json.dump(golden, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()

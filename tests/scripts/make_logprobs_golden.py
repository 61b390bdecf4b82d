"""Golden: the log-probabilities that a chat completion shows, from transformers
in f32 on the dequantized weights: greedy answers, each token with its five most
likely alternatives, as bytes.

    python tests/scripts/make_logprobs_golden.py MODEL.gguf > tests/golden/logprobs_transformers.json

Needs torch, transformers, gguf.
"""

import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["What is the capital of France?", "Name a river.", "Say hello in Japanese.", "Count from one to ten."]
TOKENS = 10
TOP = 5
# Byte-level BPE writes a byte as a character: printable ones as themselves, the
# others in order from U+0100 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(OTHERS)}


def main(path):
    torch.set_num_threads(2)
    where = dict(pretrained_model_name_or_path=os.path.dirname(path) or ".", gguf_file=os.path.basename(path))
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    text_bytes = lambda token: [BYTES[c] for c in tokenizer.convert_ids_to_tokens(int(token))]
    rows = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        prompt_tokens, answer = tokens.shape[1], []
        while len(answer) < TOKENS:
            with torch.no_grad():
                logp = torch.log_softmax(model(tokens).logits[0, -1].double(), -1)
            top = torch.topk(logp, TOP)
            token = top.indices[0]
            if token == tokenizer.eos_token_id:
                break
            alternatives = [[text_bytes(t), round(float(l), 5)] for t, l in zip(top.indices, top.values)]
            answer.append({"bytes": text_bytes(token), "logprob": round(float(logp[token]), 5), "top": alternatives})
            tokens = torch.cat([tokens, token.view(1, 1)], 1)
        rows.append({"prompt": prompt, "prompt_tokens": prompt_tokens, "tokens": answer})
    json.dump({"transformers": transformers.__version__, "rows": rows}, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


main(*sys.argv[1:])

"""Golden: next-token distributions of transformers in f32 on the dequantized
weights, and llama.cpp's own divergence from them.

    pip install torch transformers gguf            # one environment
    pip install llama-cpp-python                   # may be another
    python tests/scripts/kl_transformers.py hf    MODEL.gguf tests/golden/llama_cpp_greedy.json /tmp/hf.npz
    python tests/scripts/kl_transformers.py llama MODEL.gguf /tmp/hf.npz > tests/golden/kl_transformers.json

At each chosen position the 64 most likely tokens of transformers are kept with
their log-probabilities; the rest is one bucket. Divergences are taken over
these 65 outcomes, for llama.cpp here and for our engine in the test.
"""

import json
import os
import sys

import numpy as np

ROWS = 24
POSITIONS_PER_ROW = 10
TOP = 64


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def hf(path, greedy, out):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path) or ".", gguf_file=os.path.basename(path), dtype=torch.float32
    ).eval()
    rng = np.random.default_rng(7)
    rows = [r for r in json.load(open(greedy))["rows"] if len(r["answer_ids"]) >= POSITIONS_PER_ROW][:ROWS]
    kept = []
    for row in rows:
        tokens = row["prompt_ids"] + row["answer_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].numpy()
        first = len(row["prompt_ids"]) - 1
        places = sorted(rng.choice(len(row["answer_ids"]), POSITIONS_PER_ROW, replace=False) + first)
        logp = log_softmax(logits[places])
        top = np.argsort(-logp, axis=-1, kind="stable")[:, :TOP]
        kept.append((tokens, places, top, np.take_along_axis(logp, top, -1)))
    np.savez(
        out,
        tokens=np.array([np.array(k[0]) for k in kept], dtype=object),
        places=np.array([k[1] for k in kept]),
        top=np.array([k[2] for k in kept]),
        logp=np.array([k[3] for k in kept]),
    )


def divergence(logp, q_top):
    """KL(p ‖ q) in nats over the top tokens and one bucket for the rest."""
    p = np.exp(logp)
    rest_p = np.maximum(1 - p.sum(-1), 1e-9)
    rest_q = np.maximum(1 - np.exp(q_top).sum(-1), 1e-9)
    return (p * (logp - q_top)).sum(-1) + rest_p * np.log(rest_p / rest_q)


def llama(path, stored):
    from llama_cpp import Llama

    data = np.load(stored, allow_pickle=True)
    llm = Llama(path, n_ctx=1024, n_threads=2, logits_all=True, verbose=False)
    rows, divergences = [], []
    for tokens, places, top, logp in zip(data["tokens"], data["places"], data["top"], data["logp"]):
        tokens = [int(t) for t in tokens]
        llm.reset()
        llm.eval(tokens)
        q = log_softmax(llm.scores[places])
        divergences.extend(divergence(logp, np.take_along_axis(q, top, -1)))
        rows.append(
            {
                "tokens": tokens,
                "positions": [
                    {"at": int(at), "top": t.tolist(), "logp": [round(float(x), 5) for x in l]}
                    for at, t, l in zip(places, top, logp)
                ],
            }
        )
    json.dump({"llama_cpp_mean_kl": float(np.mean(divergences)), "rows": rows}, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


{"hf": hf, "llama": llama}[sys.argv[1]](*sys.argv[2:])

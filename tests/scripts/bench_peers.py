"""Our engine beside llama.cpp on the same file and threads, turn by turn.

    cargo build --release -p engine --example bench
    pip install llama-cpp-python
    python tests/scripts/bench_peers.py target/release/examples/bench MODEL.gguf [rounds]

Prints tokens a second (medians): a prompt of 512 tokens, and decoding after a
short prompt. The two take turns, so that other load meets both alike.
"""

import json
import statistics
import subprocess
import sys
import time

from llama_cpp import Llama

THREADS = 2
PROMPT = 512
DECODED = 128


def llama_round(llm):
    llm.reset()
    start = time.perf_counter()
    llm.eval([100 + i % 1000 for i in range(PROMPT)])
    prefill = PROMPT / (time.perf_counter() - start)
    llm.reset()
    llm.eval(list(range(100, 140)))
    start = time.perf_counter()
    for token in range(DECODED):
        llm.eval([200 + token])
    return prefill, DECODED / (time.perf_counter() - start)


def ours_round(binary, model):
    out = subprocess.run([binary, model, str(THREADS), "1"], capture_output=True, text=True, check=True)
    found = json.loads(out.stdout)
    return found["prefill"], found["decode"]


def main(binary, model, rounds=5):
    llm = Llama(model, n_ctx=1024, n_batch=PROMPT, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
    llama_round(llm)
    results = {"ours": [], "llama.cpp": []}
    for _ in range(int(rounds)):
        results["ours"].append(ours_round(binary, model))
        results["llama.cpp"].append(llama_round(llm))
    for name, rows in results.items():
        prefill, decode = (statistics.median(column) for column in zip(*rows))
        print(json.dumps({"engine": name, "prefill": round(prefill, 1), "decode": round(decode, 1), "rounds": len(rows)}))


main(*sys.argv[1:])

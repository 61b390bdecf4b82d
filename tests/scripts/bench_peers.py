"""Our engine beside llama.cpp on the same file and threads, turn by turn.

    make bench-peers

or, with both at hand:

    python tests/scripts/bench_peers.py FLYWHEEL LLAMA-SERVER MODEL.gguf [rounds] [threads]

Prints a table of tokens a second (medians) and the ratio, then the same as JSON
lines. The two take turns case by case, so that other load meets both alike.
llama.cpp runs in this process, by the package llama-cpp-python; `flywheel bench`
anew for each turn. The last rows are both servers over HTTP (bench_servers.py).
"""

import ctypes
import json
import statistics
import subprocess
import sys
import time

import llama_cpp

import bench_servers

PROMPT = 40
DECODED = 128
CASES = [("prefill", 512), ("prefill", 128), ("decode", 1), ("decode", 4), ("decode", 8)]


def name_of(kind, size):
    return f"prefill {size}" if kind == "prefill" else f"decode {DECODED} × {size}"


class LlamaCpp:
    """A context of llama.cpp with room for 8 sequences."""

    SEQUENCES = 8

    def __init__(self, path, threads):
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.SEQUENCES * 256 + 512
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = self.SEQUENCES
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    @staticmethod
    @llama_cpp.llama_log_callback
    def _quiet(level, text, user_data):
        pass

    def decode(self, rows):
        """Computes rows of (token, position, sequence, whether logits are wanted)."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        # waits for the computation
        llama_cpp.llama_get_logits_ith(self.context, len(rows) - 1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def prefill(self, tokens):
        self.clear()
        start = time.perf_counter()
        self.decode([(100 + i % 1000, i, 0, i == tokens - 1) for i in range(tokens)])
        return tokens / (time.perf_counter() - start)

    def decoding(self, sequences):
        self.clear()
        for s in range(sequences):
            self.decode([(100 + s + i, i, s, i == PROMPT - 1) for i in range(PROMPT)])
        start = time.perf_counter()
        for step in range(DECODED):
            self.decode([(200 + step, PROMPT + step, s, True) for s in range(sequences)])
        return sequences * DECODED / (time.perf_counter() - start)

    def measure(self, kind, size):
        return self.prefill(size) if kind == "prefill" else self.decoding(size)


def ours(binary, model, threads, case):
    """Rates of one turn: by adapters, for the case of that name."""
    command = [binary, "bench", "--model", model, "--threads", str(threads), "--rounds", "1", "--only", case, "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in out.stdout.splitlines()]
    return {row["adapters"]: row["median"] for row in rows if row["name"] == case}


def say(text):
    print(text, file=sys.stderr)


def main(binary, llama_server, model, rounds=5, threads=2):
    rounds, threads = int(rounds), int(threads)
    peer = LlamaCpp(model, threads)
    peer.measure("prefill", 512)
    heads, kv_heads = llama_cpp.llama_model_n_head(peer.model), llama_cpp.llama_model_n_head_kv(peer.model)
    found = {case: {"llama.cpp": []} for case in CASES}
    for turn in range(rounds):
        for case in CASES:
            say(f"round {turn + 1} of {rounds}: {name_of(*case)}")
            found[case]["llama.cpp"].append(peer.measure(*case))
            for adapters, rate in ours(binary, model, threads, name_of(*case)).items():
                found[case].setdefault(adapters, []).append(rate)
    rows = []
    for case, rates in found.items():
        theirs = rates.pop("llama.cpp")
        rows += [(name_of(*case), adapters, "base", rate, theirs) for adapters, rate in rates.items()]
    peer.close()
    name = f"HTTP, {bench_servers.REQUESTS} × {bench_servers.TOKENS}"
    servers = bench_servers.compare(binary, llama_server, model, rounds, threads, heads, kv_heads, say)
    rows += [(name, mix, mix, both["flywheel"], both["llama.cpp"]) for mix, both in servers.items()]
    print(f"{'case':<16}{'adapters':<10}{'flywheel':>10}{'llama.cpp':>11}{'its adapters':>14}{'ratio':>7}")
    lines = []
    for case, adapters, their_adapters, ours_all, theirs_all in rows:
        mine, theirs = statistics.median(ours_all), statistics.median(theirs_all)
        print(f"{case:<16}{adapters:<10}{mine:>10.1f}{theirs:>11.1f}{their_adapters:>14}{mine / theirs:>7.2f}")
        lines.append({"case": case, "adapters": adapters, "flywheel": round(mine, 1), "llama.cpp": round(theirs, 1),
                      "llama.cpp's adapters": their_adapters, "ratio": round(mine / theirs, 2), "rounds": rounds})
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


main(*sys.argv[1:])

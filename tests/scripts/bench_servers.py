"""Our gateway beside llama.cpp's server: requests at the same time, each with an
adapter of its own or all with one, turn by turn, over HTTP on both sides.

Both servers get the same adapters (ours as PEFT folders, llama.cpp's as GGUF) and
the same questions. A turn is timed from the first request to the last answer,
prompts included. See bench_peers.py, which runs this.
"""

import concurrent.futures
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from lora_gguf import convert

REQUESTS = 8
TOKENS = 128
RANK = 16
READY_SECONDS = 120


def call(url, body=None, key=None, timeout=600):
    """A JSON request; what came back."""
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as answer:
        return answer.read()


class Server:
    """A process with a port of its own, ended with the program."""

    def __init__(self, command, log, ready, env=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command], stdout=log, stderr=log, env=env
        )
        start = time.monotonic()
        while True:
            try:
                call(self.url + ready, timeout=5)
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() - start > READY_SECONDS:
                    self.stop()
                    raise RuntimeError(f"{command[0]} was not ready: see {log.name}") from error
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def ask(self, number, **which):
        body = {
            "messages": [{"role": "user", "content": f"{number}: what comes after one, two, three, four and five?"}],
            "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **which,
        }
        answer = json.loads(call(self.url + "/v1/chat/completions", body))
        if answer["usage"]["completion_tokens"] != TOKENS:
            raise RuntimeError(f"{answer['usage']} is not {TOKENS} tokens")

    def rate(self, turn, adapters):
        """Tokens a second, all together; `adapters` says each request's."""
        with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
            start = time.perf_counter()
            asked = [pool.submit(self.ask, REQUESTS * turn + i, **self.which(a)) for i, a in enumerate(adapters)]
            for answer in asked:
                answer.result()
            return REQUESTS * TOKENS / (time.perf_counter() - start)


class Ours(Server):
    def __init__(self, binary, model, threads, folder, log):
        key = "bench-" + os.urandom(16).hex()
        (folder / "flywheel.toml").write_text(f"[engine]\nthreads = {threads}\n")
        command = [binary, "serve", "--model", model, "--listen", "127.0.0.1:PORT", "--data", str(folder / "data"),
                   "--adapter-root", str(folder / "adapters"), "--config", str(folder / "flywheel.toml")]
        env = {name: value for name, value in os.environ.items() if not name.startswith("FLYWHEEL_")}
        super().__init__(command, log, "/health/ready", env | {"FLYWHEEL_ADMIN_KEY": key})
        for i in range(REQUESTS):
            call(self.url + "/v1/load_lora_adapter", {"lora_name": f"adapter-{i}", "lora_path": str(i)}, key)

    @staticmethod
    def which(adapter):
        return {"model": f"adapter-{adapter}"}


class LlamaServer(Server):
    def __init__(self, binary, model, threads, folder, log):
        command = [binary, "-m", model, "--host", "127.0.0.1", "--port", "PORT", "-t", str(threads), "-tb", str(threads),
                   "-np", str(REQUESTS), "-c", str(REQUESTS * 512), "--lora-init-without-apply", "--no-webui"]
        for i in range(REQUESTS):
            command += ["--lora", str(folder / f"{i}.gguf")]
        super().__init__(command, log, "/health")

    @staticmethod
    def which(adapter):
        return {"lora": [{"id": adapter, "scale": 1.0}], "cache_prompt": False}


def compare(flywheel, llama_server, model, rounds, threads, heads, kv_heads, say):
    """Rates of both, by the mix and the server."""
    mixes = {"one": [0] * REQUESTS, "one each": list(range(REQUESTS))}
    found = {mix: {"flywheel": [], "llama.cpp": []} for mix in mixes}
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w") as log:
        folder = Path(folder)
        subprocess.run([flywheel, "bench", "adapters", "--model", model, "--rank", str(RANK), "--count", str(REQUESTS),
                        "--out", str(folder / "adapters")], check=True, stdout=log)
        for i in range(REQUESTS):
            convert(folder / "adapters" / str(i), folder / f"{i}.gguf", heads, kv_heads)
        servers = {}
        try:
            servers["flywheel"] = Ours(flywheel, model, threads, folder, log)
            servers["llama.cpp"] = LlamaServer(llama_server, model, threads, folder, log)
            # the first turn only warms up
            for turn in range(rounds + 1):
                for mix, adapters in mixes.items():
                    say(f"round {turn} of {rounds}: {REQUESTS} requests, adapters: {mix}")
                    for name, server in servers.items():
                        rate = server.rate(turn, adapters)
                        if turn > 0:
                            found[mix][name].append(rate)
        except Exception:
            log.flush()
            say((folder / "log").read_text()[-2000:])
            raise
        finally:
            for server in servers.values():
                server.stop()
    return found

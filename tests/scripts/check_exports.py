"""Are our exports of an adapter what PEFT makes of it? In two environments:

    python tests/scripts/check_exports.py peft  TRAINER MODEL.gguf ADAPTER FOLDER   # torch, transformers, peft, gguf
    python tests/scripts/check_exports.py llama FOLDER                              # llama-cpp-python

ADAPTER is what `flywheel-trainer export` takes: a PEFT folder, or a digest with
FLYWHEEL_ADAPTERS set. The first command exports everything into FOLDER and lets
transformers answer 50 questions greedily, in f32 on the dequantized base, with
the exported PEFT folder on it. The second lets llama.cpp answer them with the
exported LoRA file on the dequantized base, and with the merged model, and
compares token by token. Where they part, the two tokens' logits under PEFT are
shown: they must be a near tie.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

QUESTIONS = Path(__file__).resolve().parent.parent / "golden" / "llama_cpp_greedy.json"
COUNT, TOKENS, NEAR = 50, 24, 0.02


def export(trainer, model, adapter, folder):
    def run(*options):
        subprocess.run([trainer, "export", "--model", model, *options], check=True)

    run("--adapter", adapter, "--format", "peft", "--out", f"{folder}/peft")
    run("--adapter", adapter, "--format", "gguf-lora", "--out", f"{folder}/lora.gguf")
    run("--adapter", adapter, "--format", "merged-gguf", "--out", f"{folder}/merged.gguf")
    run("--base-alone", "--format", "merged-gguf", "--out", f"{folder}/base.gguf")


def peft(trainer, model, adapter, folder):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    Path(folder).mkdir(exist_ok=True)
    export(trainer, model, adapter, folder)
    torch.set_num_threads(2)
    path = Path(model)
    base = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, f"{folder}/peft").eval()
    rows = []
    for row in json.loads(QUESTIONS.read_text())["rows"][:COUNT]:
        prompt = row["prompt_ids"]
        with torch.no_grad():
            out = adapted.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=TOKENS, do_sample=False, return_dict_in_generate=True,
                output_logits=True, pad_token_id=2,
            )
            with adapted.disable_adapter():
                bare = adapted(torch.tensor([prompt])).logits[0, -1]
        answer = out.sequences[0, len(prompt):].tolist()
        top = [logits[0].topk(8) for logits in out.logits]
        rows.append({
            "question": row["prompt"], "prompt": prompt, "answer": answer,
            "top": [[t.indices.tolist(), t.values.tolist()] for t in top],
            "first": out.logits[0][0].tolist(),
            "moved": float((out.logits[0][0] - bare).abs().max()),
        })
    (Path(folder) / "peft.json").write_text(json.dumps(rows))
    print(f"{len(rows)} answers; the adapter moves first logits by up to {max(row['moved'] for row in rows):.2f}")


class Llama:
    """A context of llama.cpp, keys and values in f32."""

    def __init__(self, model, lora=None):
        import llama_cpp

        self.lib = llama_cpp
        llama_cpp.llama_log_set(_quiet(llama_cpp), ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 512, 512, 512
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if lora:
            adapter = llama_cpp.llama_adapter_lora_init(self.model, lora.encode())
            assert adapter, "llama.cpp does not take the adapter"
            self.set_adapter(adapter)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def set_adapter(self, adapter):
        adapters = (self.lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        assert self.lib.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0

    def logits(self, tokens):
        """After a conversation, all of it anew."""
        import numpy

        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        array = (self.lib.llama_token * len(tokens))(*tokens)
        batch = self.lib.llama_batch_get_one(array, len(tokens))
        assert self.lib.llama_decode(self.context, batch) == 0
        return numpy.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), (self.vocab,)).copy()

    def more(self, token):
        import numpy

        array = (self.lib.llama_token * 1)(token)
        assert self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, 1)) == 0
        return numpy.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), (self.vocab,)).copy()


KEPT = []


def _quiet(lib):
    @lib.llama_log_callback
    def quiet(level, text, user_data):
        pass

    KEPT.append(quiet)
    return quiet


def llama(folder):
    import numpy

    rows = json.loads((Path(folder) / "peft.json").read_text())
    bad = 0
    for name, model, lora in (
        ("LoRA file on the dequantized base", "base.gguf", "lora.gguf"),
        ("merged model", "merged.gguf", None),
    ):
        peer = Llama(f"{folder}/{model}", f"{folder}/{lora}" if lora else None)
        same, far, parted = 0, 0.0, []
        for row in rows:
            logits = peer.logits(row["prompt"])
            far = max(far, float(numpy.abs(logits - numpy.array(row["first"])).max()))
            for place, token in enumerate(row["answer"]):
                chosen = int(logits.argmax())
                if chosen != token:
                    ids, values = row["top"][place]
                    gap = values[0] - values[ids.index(chosen)] if chosen in ids else float("inf")
                    parted.append((row["question"], place, gap))
                    break
                if place + 1 < len(row["answer"]):
                    logits = peer.more(token)
            else:
                same += 1
        print(f"{name}: {same} of {len(rows)} answers the same; first logits within {far:.4f}")
        for question, place, gap in parted:
            bad += gap > NEAR
            print(f"  parted at token {place} by {gap:.4f} ({'near tie' if gap <= NEAR else 'NO TIE'}): {question}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    {"peft": peft, "llama": llama}[sys.argv[1]](*sys.argv[2:])

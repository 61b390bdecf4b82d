"""Our trainer beside TRL and PEFT on the CPU: the same model, pairs and threads.

    make bench-peers

or, with both at hand:

    python tests/scripts/bench_training.py TRAINER MODEL.gguf [rounds] [threads] [TOKENS,...] [kept.jsonl]

A step of DPO on 4 pairs whose prompts are half of their tokens; rank 16 on all
linear modules. TRL has the model dequantized, in f32, and recomputes
activations (gradient checkpointing), as our plan does where memory is short;
both are measured with the pass of the reference in the time, and without. The
two take turns, each in a process of its own, whose peak resident memory is
what the kernel counted. Medians; every turn is a line of JSON on stderr and,
where a file is named, in that file, from which turns of earlier calls count too.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS, RANK = 4, 16
# the plan that uses the memory it needs for speed, and one within 1 GB
OURS = {"flywheel": [], "flywheel, 1 GB": ["--memory-mib", "1060"]}


def pairs(tokens, vocabulary):
    """Token ids from a seed: nothing is shared but each pair's prompt."""
    ids = random.Random(tokens)
    some = lambda n: [ids.randrange(vocabulary) for _ in range(n)]
    half = tokens // 2
    return [
        {"prompt_ids": some(half), "chosen_ids": some(tokens - half), "rejected_ids": some(tokens - half)}
        for _ in range(PAIRS)
    ]


def dequantize(model, folder):
    """The GGUF file as a folder of f32 weights."""
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(model)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # what is read from GGUF counts as quantized, and is not saved
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)


def trl(folder, pairs_file, threads):
    """One step of TRL's trainer; what it took."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [json.loads(line) for line in open(pairs_file)]
    inner = Tokenizer(models.WordLevel({f"t{i}": i for i in range(model.config.vocab_size)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="t2", pad_token="t0", unk_token="t0")
    # the rows are tokens already, in the form in which the trainer keeps them
    DPOTrainer._prepare_dataset = lambda self, dataset, *_, **__: dataset
    precompute = DPOTrainer._precompute_ref_logps
    spent = {}

    def timed(self, *args, **kwargs):
        start = time.perf_counter()
        dataset = precompute(self, *args, **kwargs)
        spent["reference"] = time.perf_counter() - start
        return dataset

    DPOTrainer._precompute_ref_logps = timed

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            spent["step"] = time.perf_counter() - self.start

    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            output_dir=scratch, max_steps=1, per_device_train_batch_size=len(rows), gradient_accumulation_steps=1,
            gradient_checkpointing=True, use_cpu=True, bf16=False, max_length=None, report_to="none",
            save_strategy="no", disable_tqdm=True, precompute_ref_log_probs=True,
        )
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = DPOTrainer(
            model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora,
            callbacks=[Clock()],
        )
        trainer.train()
    spent["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(spent))


def run(command):
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode != 0:
        raise RuntimeError(f"{command}: {out.stderr[-2000:]}")
    return json.loads(out.stdout.splitlines()[-1])


def turn(trainer, model, folder, threads, tokens, pairs_file):
    """One measurement of each; a row for each."""
    theirs = run([sys.executable, __file__, "--trl", folder, pairs_file, str(threads)])
    count = 2 * PAIRS * tokens
    yield "trl", {
        "with_reference": count / (theirs["reference"] + theirs["step"]), "without": count / theirs["step"],
        "peak_bytes": theirs["peak_bytes"],
    }
    for name, options in OURS.items():
        ours = run([
            trainer, "bench", "--model", model, "--pairs-file", pairs_file, "--steps", "2", "--rank", str(RANK),
            "--threads", str(threads), "--json", *options,
        ])
        yield name, {
            "with_reference": ours["tokens_per_second_with_reference"], "without": ours["tokens_per_second"],
            "peak_bytes": ours["peak_rss_bytes"], "predicted_bytes": ours["plan"]["peak_bytes"],
            "recompute": ours["plan"]["recompute"], "gemm_share": ours["gemm_share"],
        }


def report(rows):
    """Medians, and ours by theirs."""
    median = lambda rows, key: statistics.median(row[key] for row in rows)
    print(f"{'case':<12}{'who':<18}{'rounds':>7}{'tok/s':>8}{'with reference':>16}{'peak MiB':>10}{'predicted':>11}"
          f"{'of GEMM':>9}{'speed':>8}{'memory':>8}")
    for tokens in sorted({row["tokens"] for row in rows}):
        of = lambda name: [row for row in rows if row["tokens"] == tokens and row["who"] == name]
        theirs = of("trl")
        for name in ["trl", *OURS]:
            ours = of(name)
            cells = [median(ours, "without"), median(ours, "with_reference"), median(ours, "peak_bytes") / 2**20]
            line = f"{f'{PAIRS} × {tokens}':<12}{name:<18}{len(ours):>7}{cells[0]:>8.1f}{cells[1]:>16.1f}{cells[2]:>10.0f}"
            if name != "trl":
                speed = cells[0] / median(theirs, "without")
                memory = median(ours, "peak_bytes") / median(theirs, "peak_bytes")
                line += f"{median(ours, 'predicted_bytes') / 2**20:>11.0f}{median(ours, 'gemm_share'):>9.0%}"
                line += f"{speed:>8.2f}{memory:>8.1%}"
            print(line)


def main(trainer, model, rounds="3", threads="2", lengths="512,1024", kept=None):
    vocabulary = 49152
    rows = [json.loads(line) for line in open(kept)] if kept and Path(kept).exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "model")
        dequantize(model, folder)
        for number in range(int(rounds)):
            for tokens in map(int, lengths.split(",")):
                pairs_file = str(Path(scratch) / f"{tokens}.jsonl")
                text = "\n".join(json.dumps(pair) for pair in pairs(tokens, vocabulary)) + "\n"
                Path(pairs_file).write_text(text)
                for name, row in turn(trainer, model, folder, int(threads), tokens, pairs_file):
                    rows.append({"tokens": tokens, "who": name, "threads": int(threads), **row})
                    print(json.dumps(rows[-1]), file=sys.stderr)
                    if kept:
                        with open(kept, "a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    report(rows)


if __name__ == "__main__":
    if sys.argv[1] == "--trl":
        trl(*sys.argv[2:])
    else:
        main(*sys.argv[1:])

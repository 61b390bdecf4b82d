"""Writes tests/golden/training/trl.json and trl_*.safetensors: what TRL's own
trainers make of tests/golden/tiny_llama with its PEFT adapter, for every loss
of ours that TRL has. Of each: loss and metrics of every one of 20 optimizer
steps over one batch of everything, the LoRA gradients of the first, and the
adapter after the last.

The start is an adapter whose B is not zero, and it is the reference.

    python tests/scripts/make_trl_golden.py

The same of the model in a GGUF file, dequantized and in f32, with an adapter made
here on all of its linear layers and pairs of English text, is written elsewhere
(it is large; `make check-trl` holds ours against it):

    python tests/scripts/make_trl_golden.py MODEL.gguf FOLDER

Needs torch, transformers, peft, trl, datasets, safetensors (made with trl 1.16.0);
for a GGUF file gguf too.
"""

import json
import pathlib
import shutil
import sys
import tempfile
from functools import partial

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

import make_peft_golden as tiny
from bench_training import dequantize
from make_training_golden import GOLDEN, PAIRS

STEPS = 20
LOSSES = {
    "sigmoid": {},
    "sigmoid_sft": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
    "ipo": {},
    "hinge": {},
    "robust": {"label_smoothing": 0.1},
    "apo_zero": {},
    "sigmoid_norm": {},
}
# (question, right answer, wrong answer)
TEXTS = [
    ("What is the capital of France?", " The capital of France is Paris.", " I do not know that city."),
    ("Name a prime number between twenty and thirty.", " Twenty-three is one.", " Twenty-four, since it is even."),
    ("Why is the sky blue?", " Air scatters short waves of light more than long ones.", " It mirrors the sea."),
]


class Tiny:
    """The random model of the goldens."""

    # at four times the rate, rounding alone grows to 2e-3 of the loss in 20 steps
    folder, vocabulary, pairs, rate = GOLDEN, tiny.CONFIG.vocab_size, PAIRS, 5e-4

    def policy(self):
        return PeftModel.from_pretrained(tiny.base_model(), tiny.GOLDEN / "adapter", is_trainable=True)


class Real:
    """The model of a GGUF file."""

    # a loss that is 0 after some steps would leave noise to compare
    rate = 1e-4

    def __init__(self, model, folder):
        self.model, self.folder = pathlib.Path(model), pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(self.model.parent, gguf_file=self.model.name)
        ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        self.vocabulary = len(tokenizer)
        self.pairs = []
        for question, right, wrong in TEXTS:
            prompt = ids(question)
            self.pairs.append((prompt + ids(right), prompt + ids(wrong), len(prompt)))
        self.plain = tempfile.TemporaryDirectory()
        dequantize(model, self.plain.name)
        policy = get_peft_model(self.base(), LoraConfig(
            r=4, lora_alpha=8, target_modules=tiny.SEVEN, task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for key, parameter in policy.named_parameters():
                if "lora_" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        policy.save_pretrained(self.folder / "adapter")

    def base(self):
        return AutoModelForCausalLM.from_pretrained(self.plain.name, dtype=torch.float32).eval()

    def policy(self):
        return PeftModel.from_pretrained(self.base(), self.folder / "adapter", is_trainable=True)


def rated(pairs):
    return [(pairs[0][0], pairs[0][2], True), (pairs[1][1], pairs[1][2], False), (pairs[2][0], pairs[2][2], True),
            (pairs[0][1], pairs[0][2], False), (pairs[2][1], pairs[2][2], False)]


def tokenizer(case):
    vocabulary = {f"t{i}": i for i in range(case.vocabulary)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="t2", pad_token="t0", unk_token="t0")


def common(case, folder):
    return {
        "output_dir": folder, "max_steps": STEPS, "learning_rate": case.rate, "lr_scheduler_type": "constant",
        "logging_steps": 1, "gradient_accumulation_steps": 1, "report_to": "none", "save_strategy": "no",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "disable_tqdm": True, "max_length": 256,
    }


# The rows are tokens already, in the form in which the trainers keep them.
for trainer in (DPOTrainer, KTOTrainer, SFTTrainer):
    trainer._prepare_dataset = lambda self, dataset, *_, **__: dataset


def run(case, name, make):
    """Trains, and keeps what TRL logs, the first gradients and the last adapter."""
    folder = tempfile.mkdtemp()
    trainer = make(folder)
    gradients = {}

    def keep(_):
        if not gradients:
            for key, parameter in trainer.model.named_parameters():
                if parameter.requires_grad:
                    gradients[key.replace(".default", "")] = parameter.grad.detach().clone().contiguous()

    clip = trainer.accelerator.clip_grad_norm_
    trainer.accelerator.clip_grad_norm_ = lambda *a, **k: (keep(None), clip(*a, **k))[1]
    trainer.train()
    trainer.model.save_pretrained(folder + "/adapter")
    trained = load_file(folder + "/adapter/adapter_model.safetensors")
    shutil.rmtree(folder)
    assert gradients, name
    save_file(gradients, case.folder / f"trl_{name}_gradients.safetensors", metadata={"format": "pt"})
    save_file(trained, case.folder / f"trl_{name}_trained.safetensors", metadata={"format": "pt"})
    kept = ("loss", "kl", "grad_norm", "rewards/", "logps/", "learning_rate", "num_tokens")
    steps = [row for row in trainer.state.log_history if "loss" in row]
    return [{key: value for key, value in row.items() if key.startswith(kept)} for row in steps]


def preference(case, name):
    pairs = [{"prompt_ids": c[:s], "chosen_ids": c[s:], "rejected_ids": r[s:]} for c, r, s in case.pairs]
    options = {"loss_type": [name], "beta": 0.3, "per_device_train_batch_size": len(pairs)} | LOSSES[name]
    return lambda folder: DPOTrainer(
        case.policy(), args=DPOConfig(**common(case, folder), **options), train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer(case),
    )


def kto(case, folder):
    rows = [{"prompt_ids": t[:s], "completion_ids": t[s:], "label": good} for t, s, good in rated(case.pairs)]
    for row, before in zip(rows, rows[-1:] + rows[:-1]):
        row["KL_completion_ids"] = before["completion_ids"]
    options = common(case, folder) | {"beta": 0.3, "per_device_train_batch_size": len(rows)}
    options |= {"desirable_weight": 1.2, "undesirable_weight": 0.9}
    return KTOTrainer(
        case.policy(), args=KTOConfig(**options), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(case),
    )


def supervised(case, folder):
    rows = [
        {"input_ids": c, "completion_mask": [0] * s + [1] * (len(c) - s), "labels": [-100] * s + c[s:]}
        for c, _, s in case.pairs
    ]
    options = common(case, folder) | {"per_device_train_batch_size": len(rows), "completion_only_loss": True}
    return SFTTrainer(
        case.policy(), args=SFTConfig(**options), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(case),
    )


def main():
    torch.manual_seed(1)
    case = Real(*sys.argv[1:]) if sys.argv[1:] else Tiny()
    facts = {"learning_rate": case.rate, "beta": 0.3, "sft_weight": 0.7, "label_smoothing": 0.1}
    facts["desirable_weight"], facts["undesirable_weight"] = 1.2, 0.9
    facts["pairs"] = [{"chosen": c, "rejected": r, "completion_start": s} for c, r, s in case.pairs]
    facts["rated"] = [{"tokens": t, "completion_start": s, "is_good": good} for t, s, good in rated(case.pairs)]
    makers = {name: preference(case, name) for name in LOSSES}
    makers |= {"kto": partial(kto, case), "supervised": partial(supervised, case)}
    facts["runs"] = {name: run(case, name, make) for name, make in makers.items()}
    (case.folder / "trl.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Writes tests/golden/training: the loss, log-probabilities and LoRA gradients
of DPO with an SFT term by torch's autograd, on tests/golden/tiny_llama with its
PEFT adapter as the policy and the bare base as the reference; and some steps of
torch's AdamW.

    python tests/scripts/make_training_golden.py

Needs torch, transformers, peft, safetensors, and make_peft_golden.py beside it.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import make_peft_golden as tiny  # noqa: E402

GOLDEN = tiny.GOLDEN.parent / "training"
BETA, SFT = 0.3, 0.7
# (chosen, rejected, where the completion starts); prompts and a prefix are shared.
PAIRS = [
    ([1, 108, 45, 261, 9, 200, 2], [1, 108, 45, 261, 31, 7, 262, 40, 2], 4),
    ([1, 108, 45, 77, 12, 2], [1, 108, 45, 77, 13, 99, 2], 4),
    ([1, 50, 51, 52, 53, 54, 2], [1, 50, 51, 60, 2], 3),
]


def log_prob(model, tokens, start):
    logits = model(torch.tensor([tokens[:-1]])).logits[0]
    rows = F.log_softmax(logits, dim=-1)
    targets = torch.tensor(tokens[1:])
    return rows.gather(1, targets[:, None])[start - 1 :, 0].sum()


def write_dpo():
    model = PeftModel.from_pretrained(tiny.base_model(), tiny.GOLDEN / "adapter", is_trainable=True).eval()
    losses, sft, tokens, sums = [], 0.0, 0, []
    for chosen, rejected, start in PAIRS:
        policy = [log_prob(model, tokens_, start) for tokens_ in (chosen, rejected)]
        with torch.no_grad(), model.disable_adapter():
            reference = [log_prob(model, tokens_, start) for tokens_ in (chosen, rejected)]
        delta = (policy[0] - reference[0]) - (policy[1] - reference[1])
        losses.append(-F.logsigmoid(BETA * delta))
        sft = sft - policy[0]
        tokens += len(chosen) - start
        sums.append([float(value) for value in policy + reference])
    dpo, sft = torch.stack(losses).mean(), sft / tokens
    loss = dpo + SFT * sft
    loss.backward()
    gradients = {
        name.replace(".default", ""): parameter.grad.contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(gradients, GOLDEN / "dpo_gradients.safetensors", metadata={"format": "pt"})
    pairs = [{"chosen": c, "rejected": r, "completion_start": s} for c, r, s in PAIRS]
    facts = {
        "beta": BETA, "sft_weight": SFT, "pairs": pairs, "log_probs": sums,
        "loss": float(loss), "loss_dpo": float(dpo), "loss_sft": float(sft),
    }
    (GOLDEN / "dpo.json").write_text(json.dumps(facts, indent=1) + "\n")


def write_adamw():
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(16))
    facts = {"lr": 3e-3, "weight_decay": 0.02, "start": parameter.tolist(), "steps": []}
    optimizer = torch.optim.AdamW([parameter], lr=facts["lr"], weight_decay=facts["weight_decay"])
    for step in range(8):
        parameter.grad = torch.randn(16) * 10.0 ** (step % 4 - 2)
        optimizer.step()
        state = optimizer.state[parameter]
        facts["steps"].append({
            "gradient": parameter.grad.tolist(), "parameter": parameter.tolist(),
            "first": state["exp_avg"].tolist(), "second": state["exp_avg_sq"].tolist(),
        })
    (GOLDEN / "adamw.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write_dpo()
    write_adamw()

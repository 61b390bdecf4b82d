"""Writes tests/golden/vision: tiny random models that look at images, as transformers
saves them, a few pictures, and what transformers answers to them, greedily, with
log-probabilities.

    python tests/scripts/make_vision_golden.py

Three pictures have the models' size, so that nothing is resampled; for models that take
each image in a size of its own so do three more, of one grey in two shapes among them.
The last, rings, has another. Weights have values large enough that another picture is
another answer; files hold them in BF16, and transformers computes with what they are in
it, in f32.

Needs torch, transformers, pillow (made with transformers 5.24.0, pillow 13.0.0).
"""

import copy
import io
import json
import pathlib
import shutil
import sys

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

import tiny_tokenizers
from tiny_gguf import MERGES, TOKENS

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "vision"
SIDE, PATCH, SEATS, ANSWER = 32, 8, 4, 10
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE, patch_size=PATCH)
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=256)
# as SmolVLM has it: what is no list of parts is lost
IDEFICS3 = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# as Gemma 3 has it, which takes both
GEMMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# as Qwen3-VL has it
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# as Mistral Small has it
MISTRAL3 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for block in message['content'] %}"
    "{% if block['type'] == 'text' %}{{ block['text'] }}{% elif block['type'] in ['image', 'image_url'] %}{{ '[IMG]' }}{% endif %}{% endfor %}{% endif %}{{ '[/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def pictures():
    rng = numpy.random.default_rng(3)
    across = numpy.linspace(0, 255, SIDE)
    slope = numpy.stack([numpy.tile(across, (SIDE, 1)), numpy.tile(across[:, None], (1, SIDE)), numpy.full((SIDE, SIDE), 80.0)], axis=-1)
    noise = rng.integers(0, 256, (SIDE, SIDE, 3))
    y, x = numpy.mgrid[0:48, 0:80]
    rings = 127 + 120 * numpy.sin(numpy.hypot(x - 30, y - 20) / 4)
    return {
        "slope": slope,
        "noise": noise,
        "grey": numpy.full((SIDE, SIDE, 3), 130),
        "band": slope[:16].repeat(2, axis=1)[:, :48],
        "lying": numpy.full((16, 48, 3), 130),
        "standing": numpy.full((48, 16, 3), 130),
        "rings": numpy.stack([rings, 255 - rings, rings / 2], axis=-1),
    }


def byte_level(marks, begin, end):
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(TOKENS)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*TOKENS[:3], *marks]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False)


def pieces():
    made, config, _ = tiny_tokenizers.gemma3()
    marks = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in marks])
    more = {"boi_token": marks[0], "eoi_token": marks[1], "image_token": marks[2]}
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", extra_special_tokens=more, clean_up_tokenization_spaces=False, **config)


def idefics3():
    tokenizer = byte_level(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"], "<|im_start|>", "<end_of_utterance>")
    size = {"longest_edge": SIDE}
    processor = Idefics3Processor(Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False), tokenizer, image_seq_len=SEATS, chat_template=IDEFICS3)
    text = TEXT | dict(model_type="llama", vocab_size=len(tokenizer), tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                       bos_token_id=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    config = Idefics3Config(text_config=text, vision_config=VISION, scale_factor=2, image_token_id=processor.image_token_id, tie_word_embeddings=False, pad_token_id=0)
    return processor, Idefics3ForConditionalGeneration, config


def gemma3():
    tokenizer = pieces()
    size = {"height": SIDE, "width": SIDE}
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size=size), tokenizer, image_seq_length=SEATS, chat_template=GEMMA3)
    text = TEXT | dict(model_type="gemma3_text", vocab_size=len(tokenizer), head_dim=16, query_pre_attn_scalar=16, sliding_window=128, tie_word_embeddings=True,
                       layer_types=["sliding_attention"] * 2, bos_token_id=2, eos_token_id=1, pad_token_id=0,
                       rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})
    ids = {f"{name}_token_index": tokenizer.convert_tokens_to_ids(token) for name, token in [("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<image_soft_token>")]}
    config = Gemma3Config(text_config=text, vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}, mm_tokens_per_image=SEATS, **ids)
    return processor, Gemma3ForConditionalGeneration, config


class Qwen3VLImages(Qwen3VLProcessor):
    """Without videos, which would need torchvision."""

    def __init__(self, image_processor, tokenizer, chat_template):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id, self.vision_start_token_id = (tokenizer.convert_tokens_to_ids(token) for token in (self.image_token, self.video_token, "<|vision_start|>"))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def qwen3(kind, config, **more):
    tokenizer = byte_level(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"], "<|endoftext|>", "<|im_end|>")
    prepared = Qwen2VLImageProcessorPil(patch_size=PATCH, size={"shortest_edge": 256, "longest_edge": 2048}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = Qwen3VLImages(prepared, tokenizer, QWEN3)
    text = TEXT | dict(vocab_size=len(tokenizer), head_dim=16, tie_word_embeddings=False, bos_token_id=0, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}) | more
    vision = dict(hidden_size=16, intermediate_size=32, depth=2, num_heads=2, patch_size=PATCH, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=32,
                  num_position_embeddings=16, deepstack_visual_indexes=[0])
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in [("vision_start", "vision_start"), ("vision_end", "vision_end"), ("image", "image_pad"), ("video", "video_pad")]}
    return processor, kind, config(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


def qwen3_vl():
    return qwen3(Qwen3VLForConditionalGeneration, Qwen3VLConfig)


def qwen3_vl_moe():
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1, mlp_only_layers=[])
    return qwen3(Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig, **experts)


class PixtralImages(ProcessorMixin):
    """What PixtralProcessor does, which would need torchvision."""

    def __init__(self, image_processor, tokenizer, unit, chat_template):
        self.unit, self.image_token = unit, "[IMG]"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def _process_images(self, images, **kwargs):
        return super()._process_images(images, **(kwargs | {"patch_size": self.unit}))

    def replace_image_token(self, image_inputs, image_idx, **kwargs):
        height, width = (side // self.unit for side in image_inputs["image_sizes"][image_idx])
        return "[IMG_BREAK]".join([self.image_token * width] * height) + "[IMG_END]"


def mistral3():
    tokenizer = byte_level(["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], "<s>", "</s>")
    prepared = PixtralImageProcessorPil(patch_size=PATCH, size={"longest_edge": 2 * SIDE})
    processor = PixtralImages(prepared, tokenizer, 2 * PATCH, MISTRAL3)
    text = TEXT | dict(model_type="mistral", vocab_size=len(tokenizer), head_dim=16, sliding_window=None, tie_word_embeddings=False,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    vision = VISION | dict(model_type="pixtral", image_size=2 * SIDE, hidden_act="silu", rope_parameters={"rope_type": "axial", "rope_theta": 10000.0})
    config = Mistral3Config(text_config=text, vision_config=vision, spatial_merge_size=2, image_token_index=processor.image_token_id, tie_word_embeddings=False)
    return processor, Mistral3ForConditionalGeneration, config


MODELS = {"idefics3": idefics3, "gemma3": gemma3, "qwen3_vl": qwen3_vl, "qwen3_vl_moe": qwen3_vl_moe, "mistral3": mistral3}
# take each image in a size of its own
SIZED = ["qwen3_vl", "qwen3_vl_moe", "mistral3"]
# the parts of the user's message: a picture's name, or a text
ASKED = {
    "one": ["<slope>", "what is it?"],
    "another": ["<noise>", "what is it?"],
    "between": ["the thing: ", "<slope>", " and ", "<noise>", ", in the end?"],
    "turned": ["the thing: ", "<noise>", " and ", "<slope>", ", in the end?"],
    "twice": ["<grey>", "<grey>", "and?"],
    "none": ["what is it?"],
    "resampled": ["<rings>", "what is it?"],
}
ASKED_OF_SIZED = {
    "oblong": ["<band>", "the thing"],
    "of sizes": ["the ", "<band>", " and ", "<slope>", " in ", "<lying>", "<standing>", "?"],
    "lying": ["<lying>", "and?"],
    "standing": ["<standing>", "and?"],
}


def fill(model):
    generator = torch.Generator().manual_seed(11)
    is_gemma = model.config.model_type == "gemma3"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                # gemma's own norms add 1 themselves
                centre = 0.0 if is_gemma and "vision_tower" not in name else 1.0
                parameter.copy_(centre + noise * 0.1)
            else:
                # a tied head repeats the last token where embeddings are large
                parameter.copy_(noise * (0.12 if is_gemma and "embed_tokens" in name else 0.3 if is_gemma else 0.2))
            # what the files hold
            parameter.copy_(parameter.bfloat16().float())


def spelled(tokenizer, token):
    """The bytes of a token."""
    name = tokenizer.convert_ids_to_tokens(token)
    if tokenizer.backend_tokenizer.get_added_tokens_decoder().get(token) is not None:
        return list(name.encode())
    if name.startswith("<0x"):
        return [int(name[3:5], 16)]
    if "▁" in tokenizer.get_vocab():
        return list(name.replace("▁", " ").encode())
    from tiny_gguf import byte_alphabet

    alphabet = byte_alphabet()
    return [alphabet.index(character) for character in name]


def answer(model, processor, asked, shown):
    content = [{"type": "image"} if part[1:-1] in shown else {"type": "text", "text": part} for part in asked]
    images = [Image.fromarray(shown[part[1:-1]]) for part in asked if part[1:-1] in shown]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[images] if images else None, add_special_tokens=False, return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]
    # beside an image the gateway begins none by itself
    unsaid = getattr(processor, "vision_start_token_id", None) if images else None
    with torch.no_grad():
        made = model.generate(**inputs, suppress_tokens=unsaid and [unsaid], max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False, return_dict_in_generate=True, output_logits=True, eos_token_id=None)
    tokens = []
    for token, logits in zip(made.sequences[0, prompt:].tolist(), made.logits, strict=True):
        logprobs = torch.log_softmax(logits[0].double(), dim=-1)
        best, second = logprobs.topk(2).values.tolist()
        tokens.append({"bytes": spelled(processor.tokenizer, token), "logprob": round(logprobs[token].item(), 5), "ahead": round(best - second, 5)})
    return {"parts": asked, "prompt_tokens": prompt, "tokens": tokens}


def plain(value):
    return {key: plain(one) for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def published(name, folder):
    """As models are published: Gemma 3 with a part in its tensors' names that transformers 5
    leaves out, experts the other way round."""

    def as_published(key, tensor):
        if name == "gemma3":
            return key.replace("vision_tower.", "vision_tower.vision_model."), tensor
        return key, tensor.transpose(1, 2).contiguous() if ".experts." in key else tensor

    path = folder / "model.safetensors"
    tensors = dict(as_published(key, tensor) for key, tensor in load_file(path).items())
    save_file(tensors, path, metadata={"format": "pt"})


def write_answers(path, answers):
    lines = ",\n".join(f"{json.dumps(what)}: {json.dumps(one)}" for what, one in answers.items())
    path.write_text("{" + lines + "}\n")


def write(name, shown):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    processor, kind, config = MODELS[name]()
    model = kind(config).eval().to(torch.float32)
    fill(model)
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    published(name, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = model.config.to_dict() | {"architectures": [kind.__name__]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    processor.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": processor.tokenizer.bos_token, "eos_token": processor.tokenizer.eos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": processor.chat_template}, indent=2) + "\n")
    prepared = plain(processor.image_processor.to_dict())
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2, sort_keys=True) + "\n")
    asked = ASKED | (ASKED_OF_SIZED if name in SIZED else {})
    answers = {what: answer(model, processor, parts, shown) for what, parts in asked.items()}
    write_answers(folder / "answers.json", answers)
    if name.startswith("qwen3_vl"):
        # the crate takes an approximation here
        for module in model.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"
        write_answers(folder / "approximated.json", {what: answer(model, processor, parts, shown) for what, parts in asked.items()})
    for file in folder.iterdir():
        file.chmod(0o644)
    print(name, {what: (one["prompt_tokens"], bytes(sum((t["bytes"] for t in one["tokens"]), []))) for what, one in answers.items()})


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    shown = {name: numpy.clip(values, 0, 255).round().astype(numpy.uint8) for name, values in pictures().items()}
    for name, values in shown.items():
        file = io.BytesIO()
        Image.fromarray(values).save(file, format="PNG", optimize=True)
        (GOLDEN / f"{name}.png").write_bytes(file.getvalue())
    for name in sys.argv[1:] or MODELS:
        write(name, shown)

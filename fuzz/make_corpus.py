#!/usr/bin/env python3
"""Makes the seeds in fuzz/corpus from the goldens of tests/golden.

Only structure matters to a reader, so the seeds are small: one layer, matrices
of four bits, and all tensors of a GGUF file in the same zeros.
"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden"
CORPUS = ROOT / "fuzz/corpus"
ALIGNMENT = 32
F32, Q4_0 = 0, 2
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("Q"))

    def value(self, kind):
        """Steps over a value and gives its bytes."""
        start = self.at
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.value(inner)
        else:
            self.take(SIZES[kind])
        return self.data[start : self.at]


def read_gguf(path):
    reader = Reader(path.read_bytes())
    assert reader.take(4) == b"GGUF" and reader.number("I") == 3
    tensor_count, metadata_count = reader.number("Q"), reader.number("Q")
    metadata, tensors = [], []
    for _ in range(metadata_count):
        key, kind = reader.text(), reader.number("I")
        metadata.append((key, kind, reader.value(kind)))
    for _ in range(tensor_count):
        name = reader.text()
        shape = [reader.number("Q") for _ in range(reader.number("I"))]
        kind, _offset = reader.number("I"), reader.number("Q")
        tensors.append((name, shape, kind))
    return metadata, tensors


def text(bytes_):
    return struct.pack("<Q", len(bytes_)) + bytes_


def write_gguf(metadata, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += text(key) + struct.pack("<I", kind) + value
    data_len = 0
    for name, shape, kind in tensors:
        elements = 1
        for size in shape:
            elements *= size
        data_len = max(data_len, elements * 4 if kind == F32 else elements // 32 * 18)
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out += struct.pack("<IQ", kind, 0)
    return out + bytes(-len(out) % ALIGNMENT + data_len)


def one_layer(path):
    """The model with its first layer alone, its matrices of four bits."""
    metadata, tensors = read_gguf(path)
    metadata = [
        (key, kind, struct.pack("<I", 1) if key.endswith(b".block_count") else value)
        for key, kind, value in metadata
    ]
    tensors = [
        (name, shape, Q4_0 if len(shape) > 1 else F32)
        for name, shape, _ in tensors
        if not name.startswith(b"blk.") or name.startswith(b"blk.0.")
    ]
    return metadata, tensors


def number(key, value):
    return (key, 2, struct.pack("<H", value))


def join(*files):
    """Several files as one input, as `flywheel_fuzz::parts` cuts it."""
    return b"".join(struct.pack("<I", len(f)) + f for f in files[:-1]) + files[-1]


def save(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def gguf_seeds():
    for name in ("llama3", "qwen2", "qwen3", "gemma3", "phi3"):
        model = one_layer(GOLDEN / f"architectures/{name}/model.gguf")
        save("gguf", name, b"\0" + write_gguf(*model))
    sentencepiece = (GOLDEN / "tokenizer/sentencepiece.gguf").read_bytes()
    save("gguf", "sentencepiece", b"\0" + sentencepiece)
    metadata, tensors = one_layer(GOLDEN / "tiny_llama/model.gguf")
    half = len(tensors) // 2
    split = [number(b"split.count", 2), number(b"split.tensors.count", len(tensors))]
    first = write_gguf(metadata + split + [number(b"split.no", 0)], tensors[:half])
    second = write_gguf([number(b"split.count", 2), number(b"split.no", 1)], tensors[half:])
    save("gguf", "split", b"\1" + join(first, second))


def adapter_seeds():
    for name in ("adapter_patterns", "adapter_layer_bf16"):
        folder = GOLDEN / "tiny_llama" / name
        config = (folder / "adapter_config.json").read_bytes()
        save("adapter", name, join(config, (folder / "adapter_model.safetensors").read_bytes()))


def folder_seeds():
    for name in ("llama3", "qwen3"):
        folder = GOLDEN / "folders" / name
        texts = [
            (folder / file).read_bytes()
            for file in ("config.json", "tokenizer_config.json", "tokenizer.json")
        ]
        weights = b"" if name == "llama3" else bf16_zeros(folder / "model.safetensors")
        save("folder", name, join(*texts, weights))


def bf16_zeros(path):
    """The same tensors in half of the bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head, at = json.loads(data[8 : 8 + length]), 0
    for name, tensor in head.items():
        if name == "__metadata__":
            continue
        start, end = tensor["data_offsets"]
        size = (end - start) // (2 if tensor["dtype"] == "F32" else 1)
        tensor.update(dtype="BF16", data_offsets=[at, at + size])
        at += size
    head = json.dumps(head).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "namespace": "{%- set ns = namespace(found=false, text='') -%}"
    "{%- for m in messages if m.role != 'system' -%}{%- set ns.text = ns.text ~ m.content | trim -%}"
    "{%- if loop.first and not ns.found -%}{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}"
    "{{ bos_token ~ ns.text.replace('a', 'b').split(' ')[-1] | upper ~ eos_token }}",
    "macro": "{%- macro turn(role, content='') -%}[{{ role | title }}]{{ content | tojson }}{%- endmacro -%}"
    "{%- for m in messages[::-1] -%}{{ turn(m['role'], m.content) }}{%- else -%}none{%- endfor -%}"
    "{{ strftime_now('%d %b %Y') }}{{ range(3) | list | join(',') }}{{ 'x' * 3 }}",
    "refusal": "{% if messages[0]['role'] not in ['user'] %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}"
    "{% set a, b = (1, 2.5) %}{{ (a + b) // 2 % 3 ** 2 }}{{ {'k': [1]} | dictsort | string | indent(2) }}",
}


def template_seeds():
    for name, source in TEMPLATES.items():
        save("template", name, join(b"Hello there, wheel", source.encode()))


gguf_seeds()
adapter_seeds()
folder_seeds()
template_seeds()
print(sum(f.stat().st_size for f in CORPUS.rglob("*") if f.is_file()), "bytes")

"""Writes tests/golden/tokenizer/{texts,chats}.jsonl: token ids of 1,000 texts
and prompts of 50 conversations, as transformers has them.

    python tests/scripts/make_tokenizer_golden.py MODEL.gguf [--llama]

Needs transformers and gguf (made with transformers 5.23.0, tokenizers 0.23.3).
transformers builds the tokenizer from the GGUF file's vocabulary and merges,
but does not read `tokenizer.ggml.pre`; so the splitting of the published
SmolLM2 tokenizer (digits one by one, then GPT-2's expression) is set here.
With --llama, and llama-cpp-python in place of transformers, the stored ids are
compared with llama.cpp's tokenizer and nothing is written.
"""

import json
import pathlib
import random
import sys

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokenizer"

SENTENCES = """
The quick brown fox jumps over the lazy dog.
Don't you think it's what we'll've wanted? They're here, I'm sure; he'd go.
DON'T SHOUT, IT'S LATE. WE'LL SEE.
Çà et là, l'été dernier, nous avons déjeuné près de la forêt.
Über den Wolken muß die Freiheit wohl grenzenlos sein.
El ñandú corrió rápidamente; ¿adónde iría? ¡Quién sabe!
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
דג סקרן שט בים מאוכזב ולפתע מצא חברה
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน
いろはにほへと ちりぬるを わかよたれそ つねならむ
我能吞下玻璃而不伤身体。漢字と仮名、カタカナ。
다람쥐 헌 쳇바퀴에 타고파. 키스의 고유조건은 입술끼리 만나야 한다.
Tiếng Việt có dấu: ă â đ ê ô ơ ư.
ქართული ანბანი, Հայերեն այբուբեն, አማርኛ ፊደል
👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumbs, 🇫🇷🇯🇵 flags, ☕️ coffee, 🤖🚀✨
e\u0301 is é, n\u0303 is ñ, \ufb01 is a ligature, \u212b is Ångström
a\u00a0no-break space, \u3000ideographic, \u2009thin, \u200bzero width, \ufeffmark
½ ¾ ² ³ ¹ ① Ⅷ ٣ ४ 五 ௧ 𝟙 𝟚
math: ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ∫₀^∞ e^{−x²} dx = √π/2
€ £ ¥ ₹ ₿ $100.00, 50%, #tag, @name, a_b-c/d\\e|f~g^h`i`
"quotes" 'single' “curly” ‘curly’ «guillemets» „low“ (parens) [brackets] {braces} <tags>
https://example.com/a/b?c=d&e=f#g mailto:someone@example.org 192.168.0.1:8080 ::1
2024-02-29T23:59:59.999Z 1,234,567.89 0x1F 1e-10 3.14159 007 42nd v1.2.3-rc4+build5
<p class="x">Hello &amp; welcome</p><!-- note --><br/>
SELECT a, COUNT(*) FROM t WHERE b >= 10 GROUP BY a HAVING COUNT(*) > 1 ORDER BY 2 DESC;
{"key": [1, 2.5, null, true, "text \\u00e9"], "nested": {"a": {}}}
def f(x: int) -> int:␤    '''Doc.'''␤    return x ** 2 if x > 0 else -x␤
fn main() {␤\tlet v: Vec<u8> = (0..=255).collect();␤\tprintln!("{:?}", &v[..10]);␤}␤
for (int i = 0; i < n; ++i) {\r␤        a[i] += b[i] << 3; // shift\r␤}\r␤
\\begin{equation} E = mc^2 \\end{equation}
#!/bin/sh␤set -eu␤curl -fsSL "$URL" | tar -xz --strip-components=1 -C "${DIR:-/opt}"␤
| a | b |␤|---|---|␤| 1 | 2 |␤␤- item␤  - nested␤␤```python␤print('x')␤```␤
ALLCAPS lowercase CamelCase snake_case kebab-case SCREAMING_SNAKE mixedCASE123abc456
Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
---------------------------------------- ======================================== ..........
""".strip().split("\n")
SENTENCES = [sentence.replace("␤", "\n") for sentence in SENTENCES]

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<jupyter_code>", "<file_sep>"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\t\t", "\r\n", " \n ", "\u00a0", "\u3000"]
EDGES = ["", " ", "\n", "\t", "0", "a", "é", "中", "👍", "\u0000", "\u0001\u0002", "\x7f", "\u200d", "\ufffd", "'s", "'",
         "<|im_start|", "|im_end|>", "<|im_end|><|im_end|>", "x<|im_start|>user\ny<|im_end|>\n", "< |im_end|>", "<<|im_end|>>"]


def texts():
    rng = random.Random(20240229)
    out = list(EDGES) + list(SENTENCES)
    out += [" " * n + "x" * (n % 2) for n in (3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 129, 255, 257)]
    out += ["\n" * n for n in (2, 3, 5, 9)] + ["\t" * n + "y" for n in (2, 5, 17)]
    out += ["".join(rng.choice("0123456789") for _ in range(n)) for n in (1, 2, 3, 4, 5, 9, 16, 33)]
    alphabets = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F),
                 (0xE00, 0xE7F), (0x2000, 0x2BFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)]
    while len(out) < 1000:
        kind = rng.randrange(6)
        if kind == 0:  # sentences joined by runs of white space
            text = "".join(rng.choice(SENTENCES) + rng.choice(SPACES) * rng.randint(1, 6) for _ in range(rng.randint(1, 2)))
        elif kind == 1:  # a cut out of a sentence, at any character
            sentence = rng.choice(SENTENCES)
            start = rng.randrange(len(sentence))
            text = sentence[start : start + rng.randint(1, 40)]
        elif kind == 2:  # random characters of one script
            low, high = rng.choice(alphabets)
            text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 24)))
        elif kind == 3:  # words and numbers
            words = " ".join(rng.choice(SENTENCES).split())
            text = " ".join(rng.choice([rng.choice(words.split()), str(rng.randrange(10 ** rng.randint(1, 9)))]) for _ in range(8))
        elif kind == 4:  # indented code
            text = "\n".join(" " * rng.choice((0, 2, 4, 8, 12)) + rng.choice(SENTENCES)[:30] for _ in range(4))
        else:  # special tokens inside of text
            text = "".join(rng.choice([rng.choice(SPECIALS), rng.choice(SENTENCES)[:12], rng.choice(SPACES)]) for _ in range(5))
        if text not in out:
            out.append(text)
    return out


def chats():
    rng = random.Random(7)
    out = []
    while len(out) < 50:
        messages = []
        if rng.random() < 0.4:
            messages.append({"role": "system", "content": rng.choice(SENTENCES)})
        for turn in range(rng.randint(1, 4)):
            content = rng.choice(SPACES).join(rng.choice(SENTENCES) for _ in range(rng.randint(0, 2)))
            messages.append({"role": "user", "content": content})
            if turn or rng.random() < 0.5:
                messages.append({"role": "assistant", "content": rng.choice(SPACES) + rng.choice(SENTENCES)})
        out.append((messages, rng.random() < 0.7))
    return out


def write(name, rows):
    with open(GOLDEN / name, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{name}: {len(rows)} rows")


def with_transformers(path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write("texts.jsonl", [{"text": text, "ids": encode(text)} for text in texts()])
    rows = []
    for messages, generation in chats():
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        rows.append({"messages": messages, "generation": generation, "prompt": prompt, "ids": encode(prompt)})
    write("chats.jsonl", rows)


def with_llama(path):
    from llama_cpp import Llama

    llama = Llama(str(path), vocab_only=True, verbose=False)
    same = total = 0
    for line in open(GOLDEN / "texts.jsonl", encoding="utf-8"):
        row = json.loads(line)
        ids = llama.tokenize(row["text"].encode(), add_bos=False, special=True)
        total += 1
        same += ids == row["ids"]
        if ids != row["ids"]:
            print(repr(row["text"]), ids, row["ids"])
    print(f"llama.cpp agrees on {same} of {total}")


if __name__ == "__main__":
    model = pathlib.Path(sys.argv[1])
    with_llama(model) if "--llama" in sys.argv[2:] else with_transformers(model)

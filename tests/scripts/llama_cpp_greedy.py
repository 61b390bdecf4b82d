"""Goldens: llama.cpp's greedy answers to 50 prompts each, as token ids.

    pip install llama-cpp-python
    python tests/scripts/llama_cpp_greedy.py MODEL.gguf > tests/golden/llama_cpp_greedy.json
    python tests/scripts/llama_cpp_greedy.py MODEL.gguf gateway/src/demo/data/replay.jsonl \
        > tests/golden/llama_cpp_questions.json

Without a file of prompts: the free-form ones below. With one: its first 50.

The test feeds prompt and answer to our engine and compares the top token at
every position of the answer (teacher forcing).
"""

import json
import sys

import llama_cpp
import numpy as np
from llama_cpp import Llama

PROMPTS = [
    "What is the capital of France?", "Who wrote Hamlet?", "Explain gravity to a child.",
    "Write a haiku about the sea.", "List three uses of copper.", "What is 12 times 11?",
    "Translate 'good morning' into French.", "Why is the sky blue?", "Name five animals.",
    "How do I boil an egg?", "What does HTTP stand for?", "Give me a synonym for happy.",
    "Describe a sunset in one sentence.", "What is photosynthesis?", "Who was Ada Lovelace?",
    "Write a Python function that adds two numbers.", "What is the boiling point of water?",
    "Summarise the plot of Romeo and Juliet.", "What are prime numbers?", "How far is the Moon?",
    "Tell me a joke about cats.", "What is machine learning?", "How do magnets work?",
    "What is the largest ocean?", "Give advice for a job interview.", "What causes rain?",
    "Write the alphabet.", "Count from one to ten.", "What is the opposite of cold?",
    "Who painted the Mona Lisa?", "Explain what a database index is.", "What is a verb?",
    "How many days are in a leap year?", "Suggest a name for a bakery.", "What is DNA?",
    "Write a short poem about winter.", "What do bees make?", "How does a bicycle stay upright?",
    "Name the planets of the solar system.", "What is inflation in economics?",
    "Complete the sentence: Once upon a time", "What is the speed of light?",
    "Describe the taste of lemon.", "How do vaccines work?", "What is an atom?",
    "Give three tips for better sleep.", "What is the Great Wall of China?",
    "Was ist die Hauptstadt von Deutschland?", "¿Cuántos días tiene una semana?",
    "Write an email that asks for a day off.",
]
ANSWER_TOKENS_MAX = 40


def main(path, prompts=None):
    asked = PROMPTS
    if prompts:
        asked = [json.loads(line)["prompt"] for line in open(prompts)][:50]
    llm = Llama(path, n_ctx=1024, n_threads=2, logits_all=True, verbose=False)
    rows = []
    for prompt in asked:
        text = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
            f"<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        )
        tokens = llm.tokenize(text.encode(), add_bos=False, special=True)
        llm.reset()
        llm.eval(tokens)
        answer = []
        while len(answer) < ANSWER_TOKENS_MAX:
            top = int(np.argmax(llm.scores[llm.n_tokens - 1]))
            answer.append(top)
            if top == llm.token_eos():
                break
            llm.eval([top])
        rows.append({"prompt": prompt, "prompt_ids": tokens, "answer_ids": answer})
    json.dump({"llama_cpp_python": llama_cpp.__version__, "rows": rows}, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


main(*sys.argv[1:])

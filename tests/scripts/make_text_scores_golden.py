"""Writes tests/golden/text_scores.json: BLEU by sacrebleu, ROUGE-L by rouge-score.

    pip install sacrebleu rouge-score
    python tests/scripts/make_text_scores_golden.py
"""

import json
import pathlib

import sacrebleu
from rouge_score import rouge_scorer

CASES = [
    (["The cat sat on the mat."], "The cat sat on the mat."),
    (["The cat sat on the mat."], "the cat is on a mat"),
    (["The cat sat on the mat.", "A cat was sitting on the mat."], "A cat sat on the mat, quietly."),
    (["It costs 1,000.50 dollars."], "It costs 1,000.50 dollars!"),
    (["Pages 10-20 are missing."], "Pages 10 - 20 are missing, aren't they?"),
    (["Don't do that."], "Do not do that."),
    (["He said &quot;yes&quot; & left."], 'He said "yes" &amp; left.'),
    (["one two three four five six seven"], "one two three"),
    (["one two three"], "one two three four five six seven eight nine"),
    (["a b c d e f"], "f e d c b a"),
    (["completely different words here now"], "nothing of that sort is there"),
    (["the the the the"], "the the the the the the the"),
    (["The sky is blue because air scatters blue light."], "Air scatters blue light, so the sky is blue."),
    (["U.S. prices rose by 3.5% in 2021."], "U.S. prices rose 3.5% in 2021."),
    (["alpha/beta (gamma) [delta] {eps}"], "alpha / beta (gamma) {eps}"),
    (["A sentence\nover two lines."], "A sentence over two lines."),
    (["short one here."], "short"),
    (["x = y + z; return x"], "x = y + z; return y"),
    (["Please send it back; we pay for the shipping.", "Send it back at our cost."],
     "Please send it back at our cost."),
    (["The archive keeps 1897 letters, all sealed."], "The archive keeps 1,897 letters; all are sealed."),
    (["email me at a.b@example.org, thanks"], "mail me at a.b@example.org thanks"),
    (["50,000 of them - no more"], "50,000 of them -- no more."),
]

scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
cases = []
for references, answer in CASES:
    bleu = sacrebleu.corpus_bleu([answer], [[r] for r in references])
    cases.append({
        "references": references,
        "answer": answer,
        "rouge_l": [scorer.score(r, answer)["rougeL"].fmeasure for r in references],
        "bleu": bleu.score / 100,
    })
# Streams of references: a sentence with fewer has None in the others.
width = max(len(r) for r, _ in CASES)
streams = [[r[i] if i < len(r) else None for r, _ in CASES] for i in range(width)]
corpus = sacrebleu.corpus_bleu([a for _, a in CASES], streams)
path = pathlib.Path(__file__).parents[1] / "golden" / "text_scores.json"
golden = {"sacrebleu": sacrebleu.__version__, "cases": cases, "corpus_bleu": corpus.score / 100}
path.write_text(json.dumps(golden, indent=1) + "\n")

"""Load int8 directories in sentence-transformers, and compare embeddings.

    check_sentences.py SOURCE INT8 ...

Each INT8 is an output of `quantscope quantize --for sentence-transformers` for SOURCE. It must
load without warnings about missing or unexpected keys, and the embedding of each sentence must
have a cosine similarity of at least 0.999 with that of SOURCE.
"""

import logging
import sys
import warnings
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer

NEAR = 0.999

SENTENCES = [
    "The cat sat on the mat.",
    "A feline rested on the rug.",
    "Quantization maps real numbers to a few integers.",
    "Int8 weights take a quarter of the bytes of float32 ones.",
    "It rained all day in Lisbon.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "SELECT name FROM users WHERE age > 30;",
    "Why do we need a scale for every channel?",
    "42",
]


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def main():
    source_path, *outputs = sys.argv[1:]
    heard = Heard()
    logging.getLogger().addHandler(heard)
    transformers.logging.get_logger("transformers").addHandler(heard)
    expected = SentenceTransformer(source_path, device="cpu").encode(SENTENCES, convert_to_tensor=True)
    failed = False
    for output in outputs:
        heard.messages.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = SentenceTransformer(output, device="cpu")
        said = [*heard.messages, *(str(w.message) for w in caught)]
        said = [m for m in said if any(word in m.lower() for word in ("missing", "unexpected", "newly initialized", "not used"))]
        found = model.encode(SENTENCES, convert_to_tensor=True)
        cosines = torch.nn.functional.cosine_similarity(expected, found)
        good = not said and cosines.min().item() >= NEAR
        failed |= not good
        print(
            f"{'ok' if good else 'FAILED'} {Path(output).name}: {len(SENTENCES)} sentences, "
            f"cosine at least {cosines.min().item():.6f}, {cosines.mean().item():.6f} on average"
        )
        for message in said:
            print(f"    {message}")
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""One token of a story by ``transformers``, from a cold start: what ``story-teller -n 1`` does."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.transformers_peer import load
from lm_core.blas import available_cores

PROMPT = "Once upon a time"


def main(folder: str) -> None:
    """Load model and tokenizer, sample one token and write its text."""
    import torch
    from transformers import PreTrainedTokenizerFast

    model = load(Path(folder), "f32", available_cores())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    with torch.inference_mode():
        ids = tokenizer(PROMPT, return_tensors="pt").input_ids
        produced = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=4,
            top_p=0.9,
            max_new_tokens=1,
        )
    sys.stdout.write(tokenizer.decode(produced[0]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])

"""From a training checkpoint to a model folder: bf16 safetensors and the files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from train_story.story_tokenizer import BOS_TOKEN, EOS_TOKEN, PAD_TOKEN
from train_story.training import Recipe, llama_config


def export_model(work: Path, out: Path) -> None:
    """Write the model folder ``out`` from ``work/checkpoint.pt`` and ``work/tokenizer.json``."""
    state: dict[str, Any] = torch.load(work / "checkpoint.pt", weights_only=True)
    recipe = Recipe(**state["recipe"])
    if state["step"] != recipe.steps:
        raise RuntimeError(f"training is at step {state['step']} of {recipe.steps}; let it finish")
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in state["model"].items()
        # The head is the embedding: stored once.
        if name != "lm_head.weight"
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = llama_config(recipe)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    _write_json(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": recipe.max_position_embeddings,
            "bos_token": BOS_TOKEN,
            "eos_token": EOS_TOKEN,
            "pad_token": PAD_TOKEN,
            "clean_up_tokenization_spaces": False,
        },
    )
    # Compact: the pretty form is three times as large.
    Tokenizer.from_file(str(work / "tokenizer.json")).save(str(out / "tokenizer.json"), pretty=False)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

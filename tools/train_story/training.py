"""The training loop: Muon for the matrices, AdamW for the rest, checkpoints that resume."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from train_story.packing import PAD_ID, pack


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    max_position_embeddings: int = 512
    rows_per_step: int = 16
    steps: int = 2600
    warmup_steps: int = 100
    decay_fraction: float = 0.6
    learning_rate: float = 8e-3
    weight_decay: float = 0.05
    original_repeats: int = 2
    """How often an epoch shows each original story; generated ones are shown once."""
    seed: int = 1


def llama_config(recipe: Recipe) -> LlamaConfig:
    """The model's shape as a Hugging Face configuration."""
    return LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=PAD_ID,
    )


def learning_rate_factor(recipe: Recipe, step: int) -> float:
    """Warm-up, a plateau, then a linear descent to zero (Hägele et al., 2024)."""
    decay_steps = recipe.decay_fraction * recipe.steps
    return min(1.0, (step + 1) / recipe.warmup_steps, (recipe.steps - step) / decay_steps)


def make_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adamw]


def batches(documents: Sequence[Sequence[int]], recipe: Recipe) -> Iterator[torch.Tensor]:
    """Endless ``[rows_per_step, max_position_embeddings]`` batches; epoch *e* is shuffled by (seed, e)."""
    for epoch in itertools.count():
        rows = pack(documents, recipe.max_position_embeddings, np.random.default_rng([recipe.seed, epoch]))
        for start in range(0, len(rows) - recipe.rows_per_step + 1, recipe.rows_per_step):
            yield torch.from_numpy(rows[start : start + recipe.rows_per_step])


def train(
    documents: Sequence[Sequence[int]], recipe: Recipe, checkpoint: Path, log: Callable[[str], None]
) -> LlamaForCausalLM:
    """Train from scratch, or from ``checkpoint`` where one of the same recipe exists."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(llama_config(recipe))
    optimizers = make_optimizers(model, recipe)
    first_step = _resume(checkpoint, recipe, model, optimizers)
    stream = itertools.islice(batches(documents, recipe), first_step, recipe.steps)
    started, losses = time.monotonic(), []
    for step, batch in enumerate(stream, first_step):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(recipe, step)
        losses.append(_train_step(model, optimizers, batch))
        if (step + 1) % 50 == 0:
            speed = (step + 1 - first_step) * batch.numel() / (time.monotonic() - started)
            log(f"step {step + 1}/{recipe.steps}  loss {np.mean(losses):.4f}  {speed:.0f} tokens/s")
            losses.clear()
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            _save(checkpoint, recipe, model, optimizers, step + 1)
    return model


def _train_step(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], batch: torch.Tensor
) -> float:
    labels = batch.masked_fill(batch == PAD_ID, -100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=batch, labels=labels).loss
    if not math.isfinite(loss.item()):
        raise RuntimeError("the loss is no longer finite; lower the learning rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.item())


def _save(
    path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    state = {
        "recipe": asdict(recipe),
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(
    path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> int:
    """Load ``path`` into model and optimizers and return the next step; 0 where there is no file."""
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        raise RuntimeError(f"{path} was made by another recipe; remove it or choose another --work folder")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])

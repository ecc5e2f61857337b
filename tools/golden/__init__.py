"""Golden files for the tests: what ``transformers`` computes for the same checkpoints."""

"""The recipe that made ``models/story``: corpus, tokenizer, training, export and evaluation.

Needs the ``train`` extra (torch, transformers).  Nothing in the product imports it.
"""

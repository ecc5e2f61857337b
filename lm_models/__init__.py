"""Model folders: where they come from, how they get here whole, and what is in them.

``lm_models.locate.model_folder`` is what the other programs call; ``lm-models`` is the program.
"""

"""``story-teller``: a story from a small model, written as it is made."""

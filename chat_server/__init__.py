"""A chat server whose sessions revert, fork and survive crashes without one bit of difference."""

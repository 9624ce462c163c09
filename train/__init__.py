"""The training recipe; not part of the installed package."""

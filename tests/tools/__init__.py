"""The commands that look from outside."""

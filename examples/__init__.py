"""Worked pipelines, one file each; run them as `python -m examples.<name>`."""

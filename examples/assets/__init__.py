"""Small files that the examples read, each beside the script that makes it."""

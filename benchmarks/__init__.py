"""Side-by-side timings with the peers; run them as `python -m benchmarks.<name>`."""

"""What gates cost and save on a GPU; `python -m benchmarks.cuda`."""

"""What the README's figures come from: `python -m benchmarks.run [NAME...]` writes one JSON file for each benchmark."""

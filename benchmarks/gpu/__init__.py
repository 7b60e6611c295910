"""What needs a GPU to be measured: `python -m benchmarks.gpu`, from the repository's root."""

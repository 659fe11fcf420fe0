"""vLLM inside the process of the run."""

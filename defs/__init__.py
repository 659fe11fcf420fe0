"""What of this repository's code location is in YAML."""

"""An example: reviews of a shop, answered from YAML."""

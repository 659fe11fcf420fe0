"""Everything that Dagster knows of this project: each folder is one component."""

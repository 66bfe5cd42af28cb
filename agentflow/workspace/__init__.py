"""Git: clones, commits, ingestion, acceptance, merging, landing."""

"""The YAML and its errors."""

"""From YAML to a checked study."""

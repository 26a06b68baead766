"""One trial, from its specification to committed files."""

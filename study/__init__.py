"""Everything that trains: search spaces, methods, data, trials and the study that runs them."""

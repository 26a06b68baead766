"""Everything that is Optuna: proposals, points of a space, storage."""

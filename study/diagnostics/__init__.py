"""What is measured of a trained method: weights, loss landscape, evidence, cost."""

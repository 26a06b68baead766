"""Reading and checking: runs, predictions, the plan, predictions of other programs."""

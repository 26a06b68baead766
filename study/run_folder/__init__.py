"""The run folder, on a disk or in an object store: what is written there, and by whom."""

"""Training: batches on the device, the loop, networks stacked and trained as one."""

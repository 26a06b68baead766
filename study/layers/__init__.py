"""Layers that hold all members at once, and the norms that go with them."""

"""Numbers and names as readers see them."""

"""From predictions to frames of numbers, and what is kept of them."""

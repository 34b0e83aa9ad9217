"""Pure values without side effects, and the texts made from them."""

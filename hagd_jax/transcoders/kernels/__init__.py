"""Features and their products: densely, and from active features alone."""

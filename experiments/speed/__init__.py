"""How fast, beside other implementations and beside what the arithmetic takes."""

"""What transcoders learn, from how much text, and what they skip."""

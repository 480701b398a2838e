"""Train transcoders, and measure their reconstruction, data needs and skipped features."""

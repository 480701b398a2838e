"""The fused executor: the stages up to the circuit as one compiled, donated, sharded step."""

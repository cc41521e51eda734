"""Networks that were trained elsewhere: instant-ngp's snapshots and tiny-cuda-nn's parameter vectors, both ways."""

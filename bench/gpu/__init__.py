"""What watching costs and tells on a real GPU. One command on a machine that has one: `python -m bench.gpu.run`."""

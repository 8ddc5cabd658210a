"""From request to GPU kernel: which ids are one request, who was in which step, whose the GPU's time was, how clocks lie."""

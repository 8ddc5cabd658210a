"""The CUPTI library that CUDA loads into the processes that use a GPU, and its build."""

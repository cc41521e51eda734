"""Triton kernels for NVIDIA GPUs; private to the engine.

`door` says whether they can run and what a tensor must be to go through; each area has a module of functions of tensors
(`grid`) and one of kernels (`grid_kernels`), which alone imports Triton, when the first call comes. Importing anything
else here compiles nothing and touches no device. Triton's interpreter (``TRITON_INTERPRET=1`` before the first import)
runs the same kernels on CPU tensors, slowly, for tests.

What has none of its own, as one could not be ahead: a background behind rays (`rendering`), and several encodings
joined (`composite_encoding`), whose parts run their own and whose features `torch.cat` then copies once.
"""

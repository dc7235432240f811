"""`make bench`: the decoders beside their floor and beside other samplers."""

import os

# One thread everywhere; these are read when the libraries are loaded.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

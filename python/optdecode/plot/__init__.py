"""Pictures of what decoders do: one row of logits, and what is made of it.

matplotlib, from the extra ``optdecode[plot]``, is imported when a picture is drawn. Each function returns a matplotlib
`Figure` that belongs to no window and to no pyplot state: save it with ``figure.savefig("name.png")``, or leave it as
the last value of a notebook cell. Everything drawn is told apart by shape, line style or hatching, so pictures can be
printed in black and white.

Examples
--------
>>> import numpy as np, optdecode as od
>>> figure = od.plot.decoder(od.top_p(0.9), np.array([2.0, 1.5, 0.1, -1.0]), labels=["a", "the", "an", "of"])
>>> figure.savefig("top_p.png", dpi=112)  # doctest: +SKIP
"""

from optdecode.plot._compare import compare as compare
from optdecode.plot._coverage import coverage as coverage
from optdecode.plot._decoder import decoder as decoder
from optdecode.plot._path import path as path

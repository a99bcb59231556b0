"""Which decoder to use: rate and distortion of linear and learned decoders and of image codecs on scenes not seen.

Compared are chunks that carry their own linear model, one fitted to other data, that with a network trained on other
data, the published architectures trained on the same data for as long on the same device, JPEG 2000, the same after a
Karhunen-Loeve transform, JPEG XL and SPERR. Beside them, models of the archive itself: fitted to the scenes that are
stored, and a network trained on three quarters of each. Every distortion is measured on what was decoded; models are
counted apart, since one serves a whole store, and the store size from which on they pay is worked out.

    python -m benchmarks.decoders prepare                               # scenes and fitted models, into benchmarks/out
    python -m benchmarks.decoders train --device cuda --seconds 25      # networks, ours and published
    python -m benchmarks.decoders evaluate                              # results/decoders.json

Only `train` wants a GPU. It needs torch, numpy, numba and safetensors, and nothing of what reads scenes.
"""

"""Rate and speed of xwalloc beside the codecs people use today.

`scenes` loads the data, `peers` and `ours` are the codecs, `measure` verifies one of them on one scene at one bound;
``python -m benchmarks.rate`` and ``python -m benchmarks.speed`` write ``results/*.json`` and print markdown.
"""

"""Parts of bench_gpu.py. Nothing of the library's is imported: they run where only torch is."""

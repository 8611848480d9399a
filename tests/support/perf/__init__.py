"""Speed and memory as ratios within one run: `make perf`. Never a test: it prints, people judge."""

from cirbench.benchmark.runtime.threads import limit_openmp_spin

limit_openmp_spin()  # as `bench` does; once torch is imported, it would be too late

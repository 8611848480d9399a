"""Speed and memory as ratios within one run: `make perf`. Never a test: it prints, people judge."""

from cirbench.benchmark.runtime.threads import sleep_soon

sleep_soon()  # as `bench` does; once torch is imported, it would be too late

"""Speed and memory as ratios within one run: `make perf`. Never a test: it prints, people judge."""

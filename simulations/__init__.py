"""The in-process engine, experiments, reports and benchmarks of the researcher."""

"""Programs that import others' code run in that code's environment, and are no tests."""

collect_ignore_glob = ["run_*.py"]

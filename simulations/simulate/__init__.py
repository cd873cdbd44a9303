"""`fedquit simulate`: one run, its report, figures and tables."""

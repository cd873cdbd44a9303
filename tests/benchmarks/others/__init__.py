"""Other people's code on our partition, which `fedquit simulate --export-partition` wrote."""

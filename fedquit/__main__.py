"""`python -m fedquit` is the same as `fedquit`."""

from fedquit.cli import main

if __name__ == "__main__":
    main()

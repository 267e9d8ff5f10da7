"""`python -m retrodict` is the `retrodict` command."""

from retrodict.cli import main

if __name__ == "__main__":
    main()

"""`python -m raymask.cli`."""

from raymask.cli import main

if __name__ == "__main__":
    main()

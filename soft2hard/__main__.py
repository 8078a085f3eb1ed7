"""`python -m soft2hard`, for instance under `accelerate launch`."""

from soft2hard.cli import main

if __name__ == "__main__":
    main()

"""`python -m soft2hard`, for instance under `accelerate launch`."""

from soft2hard.cli import app

if __name__ == "__main__":
    app(prog_name="soft2hard")

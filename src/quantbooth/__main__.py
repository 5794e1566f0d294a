"""python -m quantbooth: the same as the command quantbooth."""

from quantbooth.programs import pipeline

if __name__ == "__main__":
    pipeline()

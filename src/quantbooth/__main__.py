"""python -m quantbooth: the same as the command quantbooth."""

from quantbooth.commands.pipeline import main

if __name__ == "__main__":
    main()

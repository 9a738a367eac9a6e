import sys

from pyfit_gpu.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())

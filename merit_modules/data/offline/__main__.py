"""``python -m merit_modules.data.offline``: see ``mix``."""

import sys

from merit_modules.data.offline.mix import main

if __name__ == "__main__":
    sys.exit(main())

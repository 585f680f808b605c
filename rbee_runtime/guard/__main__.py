import sys

from rbee_runtime.guard.main import main

sys.exit(main())

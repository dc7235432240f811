"""``python -m optdecode``."""

from optdecode.cli import main

raise SystemExit(main())

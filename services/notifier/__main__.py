"""`python -m services.notifier` runs the service; with `preview` it shows how an alert would look."""

import sys

from penstock.cli.errors import report_errors
from penstock.service.lifecycle import run
from penstock.settings import Settings
from services.notifier import preview
from services.notifier.config import load
from services.notifier.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        config = load(settings)
        if sys.argv[1:2] == ["preview"]:
            sys.stdout.write(preview.render_all(config, sys.stdin.buffer.read(), only=sys.argv[2:]))
        else:
            run(build(config), settings)

"""`python -m penstock_services.notifier` runs the service; with `preview` it shows how an alert would look."""

import sys

from penstock.service.lifecycle import run
from penstock.service.main import report_errors
from penstock.settings import Settings
from penstock_services.notifier import preview
from penstock_services.notifier.config.config import load
from penstock_services.notifier.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        config = load(settings)
        if sys.argv[1:2] == ["preview"]:
            sys.stdout.write(preview.render_all(config, sys.stdin.buffer.read(), only=sys.argv[2:]))
        else:
            run(build(config), settings)

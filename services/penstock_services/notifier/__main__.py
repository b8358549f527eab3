"""`python -m penstock_services.notifier` runs the service; `preview` and `check` are commands of `penstock notify`."""

import signal
import sys

from penstock.service.lifecycle import run
from penstock.service.main import report_errors
from penstock.settings import Settings
from penstock_services.notifier import preview
from penstock_services.notifier.config.config import load
from penstock_services.notifier.heartbeat import add_heartbeat
from penstock_services.notifier.reload import LiveConfig
from penstock_services.notifier.service import build

if __name__ == "__main__":
    with report_errors():
        settings = Settings.from_env()
        match sys.argv[1:]:
            case ["preview", *channels]:
                sys.stdout.write(preview.render_all(load(settings), sys.stdin.buffer.read(), only=channels))
            case ["check"]:
                sys.stdout.write(preview.describe(load(settings)))
            case _:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the files are watched it must not end the process
                service = build(LiveConfig.read(settings))
                add_heartbeat(service, settings)
                run(service, settings)

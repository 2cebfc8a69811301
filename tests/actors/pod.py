"""Runs a service as a Pod does, with a ServiceAccount and no kubeconfig, and writes down which modules it has loaded.

`python -m actors.pod FOLDER exeunt_watcher`: FOLDER is what the kubelet mounts, `token` and `ca.crt`; at the end the
names are in FOLDER/modules, one a line. In a Pod the place of that folder cannot be chosen, so it is set in here, once
the service has imported all that it begins with.
"""

import atexit
import importlib
import sys
from pathlib import Path
from types import ModuleType

from exeunt.process import start as starting


def main() -> None:
    folder, package = Path(sys.argv[1]), sys.argv[2]
    del sys.argv[1:]
    before = frozenset(sys.modules)

    def import_module(name: str) -> ModuleType:
        module = importlib.import_module(name)
        if credentials := sys.modules.get("exeunt.kube.credentials"):
            vars(credentials)["_SERVICE_ACCOUNT"] = folder
        return module

    vars(starting)["import_module"] = import_module
    atexit.register(lambda: (folder / "modules").write_text("\n".join(sorted({*sys.modules} - before))))
    importlib.import_module(f"{package}.__main__").main()


if __name__ == "__main__":
    main()

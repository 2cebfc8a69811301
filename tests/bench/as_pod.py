"""Runs a service as a Pod does, by a ServiceAccount and without a kubeconfig: `as_pod.py FOLDER exeunt_watcher`.

FOLDER is what the kubelet mounts, `token` and `ca.crt`. In a Pod its place cannot be chosen, so it is set in here, in
whichever build this Python has; it imports nothing else.
"""

import runpy
import sys
from pathlib import Path

from exeunt.kube import credentials

if __name__ == "__main__":
    folder, package = Path(sys.argv[1]), sys.argv[2]
    del sys.argv[1:]
    vars(credentials)["_SERVICE_ACCOUNT"] = folder
    defaults = credentials.Credentials.__init__.__kwdefaults__
    assert defaults is not None
    if "service_account" in defaults:
        defaults["service_account"] = folder
    runpy.run_module(package, run_name="__main__", alter_sys=True)

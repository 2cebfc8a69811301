"""Builds the Helm that the tests of deploy/chart install it with, minutes the first time; runs it, given arguments."""

import asyncio
import os
import sys

from actors.helm import MODULE, find

if __name__ == "__main__":
    asyncio.run(MODULE.build())
    if sys.argv[1:]:
        os.execv(find(), ["helm", *sys.argv[1:]])
